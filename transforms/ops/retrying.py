"""A store's file system whose requests are sent again where that may help, and whose errors are facemill's own.

Drivers try again as well, each in its own way and not everywhere, and some take an error of the connection for a file
or folder that is not there. So nothing here asks them whether something exists or is a folder but by `info` and `ls`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, ParamSpec, TypeVar

from fsspec import AbstractFileSystem

from facemill.transforms.ops.credentials import join_signature
from facemill.transforms.ops.patience import CutShortError, keep_asking
from facemill.transforms.ops.store_errors import StoreError, explain
from facemill.transforms.ops.store_file import StoreFile

_BLOCK_BYTES = 1 << 20  # of a file are read at a time, where nothing else is said
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class RetryingFileSystem(AbstractFileSystem):
    """Reads, lists and writes whole files of the store behind `inner`, patiently.

    Args:
        inner: The driver.
        signatures: What to add to the query of a signed URL, by the URL without it.
    """

    cachable = False  # fsspec would make a key of the arguments

    def __init__(self, inner: AbstractFileSystem, *, signatures: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.protocol = inner.protocol
        self._signatures = dict(signatures or {})
        self._is_http = "http" in _names(inner)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """As the store has it now, not as it was listed before."""
        found = self._try(path, self._fresh(self.inner.ls), self._signed(path), detail=True, **kwargs)
        if "abfs" in _names(self.inner) and [(one["name"], one["size"]) for one in found] == [(path, 0)]:
            found = self._behind_marker(path) or found
        return list(found) if detail else sorted(one["name"] for one in found)

    def _behind_marker(self, path: str) -> list[dict[str, Any]]:
        """What lies below a folder that an empty object stands for, which is all that adlfs (2026.8) lists of it."""
        below = self._try(path, self.inner.find, path, withdirs=True, detail=True)
        return [info for name, info in below.items() if name != path and self._parent(name) == path]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Raises FileNotFoundError where the store says so, and nothing else."""
        return self._try(path, self._fresh(self.inner.info), self._signed(path), **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether the store has a file or folder at `path`."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Whether `path` is a folder; over HTTP, a page with links to what lies below it."""
        if self._is_http:
            return self._try(path, self.inner.isdir, self._signed(path))
        return self._kind(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether `path` is a file."""
        return self._kind(path) == "file"

    def _kind(self, path: str) -> str:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return ""

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "raise", **kwargs: Any
    ) -> Any:
        """As fsspec's, but a folder that cannot be listed is an error; one that is not there is empty."""
        tell = _raise_unless_missing if on_error == "raise" else on_error
        return super().walk(path, maxdepth, topdown, tell, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The content of a file, or of a part of it."""
        return bytes(self._try(path, self.inner.cat_file, self._signed(path), start, end, **kwargs))

    def cat_whole(self, path: str, num_bytes: int) -> bytes:
        """The content of a file that had `num_bytes` when it was listed; less only if it has become smaller."""

        def fetch() -> bytes:
            data = bytes(self.inner.cat_file(self._signed(path)))
            if len(data) < num_bytes:
                size = self._fresh(self.inner.info)(self._signed(path))["size"]
                if len(data) < size:
                    raise CutShortError(f"{len(data)} of {size} bytes came")
            return data

        return self._try(path, fetch)

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Sequence[int | None],
        ends: Sequence[int | None],
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Parts of many files, fetched at once; those that failed are asked for again, one by one."""
        if not paths:
            return []
        signed = [self._signed(path) for path in paths]
        found = self._try(
            paths[0], self.inner.cat_ranges, signed, starts, ends, max_gap=max_gap, on_error="return", **kwargs
        )
        for index, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            if isinstance(found[index], BaseException):
                try:
                    found[index] = self.cat_file(path, start, end)
                except OSError as error:
                    if on_error == "raise":
                        raise
                    found[index] = error
        return list(found)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Upload a file; it is there whole or not at all."""
        self._try(rpath, self.inner.put_file, lpath, rpath, **kwargs)

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        """Write a file of these bytes."""
        self._try(path, self.inner.pipe_file, path, value, **kwargs)

    def pipe(self, path: str | Mapping[str, bytes], value: bytes | None = None, **kwargs: Any) -> None:
        """Write small files, several at once where the driver can; one by one where that fails."""
        if isinstance(path, str):
            self.pipe_file(path, value or b"", **kwargs)
            return
        try:
            self.inner.pipe(dict(path), **kwargs)
        except Exception:  # the libraries behind the stores have errors of their own, told by what follows
            for name, content in path.items():
                self.pipe_file(name, content, **kwargs)

    def get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        """Fetch a file, to a path or into an open file."""

        def fetch() -> None:
            if hasattr(lpath, "truncate"):
                lpath.seek(0)
                lpath.truncate()
            self.inner.get_file(self._signed(rpath), lpath, **kwargs)

        self._try(rpath, fetch)

    def rm_file(self, path: str) -> None:
        """Remove a file; one that is not there is no error, as an earlier attempt may have removed it."""
        self._remove(path, self.inner.rm_file)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove a file, or a folder with all that it holds; likewise."""
        self._remove(path, self._fresh(self.inner.rm), recursive=recursive, maxdepth=maxdepth)

    def _remove(self, path: str, operation: Callable[..., None], **kwargs: Any) -> None:
        def remove() -> None:
            try:
                operation(path, **kwargs)
            except FileNotFoundError as error:
                if self.exists(path):
                    raise CutShortError("not all of it was removed") from error

        self._try(path, remove)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a folder, or on an object store a bucket."""
        self._try(path, self.inner.mkdir, path, create_parents=create_parents, **kwargs)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        self._try(path, self.inner.makedirs, path, exist_ok=exist_ok)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Nothing is remembered here; this is for code that asks for it."""
        self.inner.invalidate_cache(path)

    def unstrip_protocol(self, name: str) -> str:
        """The path as a URI."""
        return str(self.inner.unstrip_protocol(name))

    def _strip_protocol(self, path: Any) -> Any:
        return self.inner._strip_protocol(path)

    def _parent(self, path: str) -> str:
        return str(self.inner._parent(path))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if "r" not in mode:
            return self._try(path, self.inner.open, path, mode, block_size=block_size)
        opened = self._try(path, self._fresh(self.inner.open), self._signed(path), "rb", cache_type="none")
        if self._is_http and not self._try(path, _serves_parts, opened):
            opened.close()
            return self._copy_of(path)
        file = StoreFile(opened, lambda fetch: self._try(path, fetch))
        return io.BufferedReader(file, block_size or _BLOCK_BYTES)

    def _copy_of(self, path: str) -> BinaryIO:
        copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self.get_file(path, copy)
        copy.seek(0)
        return copy

    def _signed(self, path: str) -> str:
        secret = self._signatures.get(path)
        return path if secret is None else join_signature(path, secret)

    def _fresh(self, operation: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        """`operation` without what the driver remembers of earlier listings, which other processes have outdated."""

        def ask(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            self.inner.invalidate_cache()
            return operation(*args, **kwargs)

        return ask

    def _try(
        self,
        path: str,
        operation: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """What `operation` returns; the request is sent again after ever longer pauses, for about a minute.

        Raises:
            OSError: As `explain` makes it.
        """
        return keep_asking(lambda: operation(*args, **kwargs), lambda error: self._explained(error, path))

    def _explained(self, error: BaseException, path: str) -> OSError:
        if isinstance(error, StoreError):
            return error
        protocol = _names(self.inner)[0]
        return explain(error, self.unstrip_protocol(path), protocol, is_signed=path in self._signatures)


def _names(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _serves_parts(file: Any) -> bool:
    """Whether an HTTP server tells the size of this file and sends parts of it."""
    if not file.size:
        return False
    try:
        file._fetch_range(file.size - 1, file.size)
    except ValueError:  # so fsspec says that it got the whole file
        return False
    return True
