"""Read a `.npy` file that holds a pickled dict of arrays, without running what a pickle can run.

Everything the pickle may name is replaced by a stand-in written in Python, so that neither a callable of its choice nor
numpy's own unpickling code, which trusts its input, ever sees the stream.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from facemill.models.errors import ModelLoadError

# O-Net takes 1.6 MB; the bound keeps a wrong file from filling the memory.
_MAX_FILE_BYTES = 64 * 2**20
# What a damaged or hostile stream makes the unpickler raise.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def read_object_npy(path: Path) -> object:
    """The object that `numpy.save(path, object)` stored: containers, text, numbers and float arrays.

    Raises ModelLoadError when the file cannot be read, is not such a file, or names anything but arrays.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise ModelLoadError(f"{path} is larger than {_MAX_FILE_BYTES >> 20} MiB: not a file of weights")
            _check_header(file)
            return _resolve(_ArrayUnpickler(file, encoding="latin1").load())
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror or error}") from error
    except _MALFORMED as error:
        raise ModelLoadError(f"{path} is not a .npy file with a dict of arrays: {error}") from error


def _check_header(file: BinaryIO) -> None:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"it holds an array of shape {shape} and type {dtype}")


class _StoredType:
    """Stands for `numpy.dtype` in the stream."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.byte_order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byte_order = state[1]

    def resolve(self) -> np.dtype[Any]:
        if self.code not in ("f2", "f4", "f8") or self.byte_order not in ("<", ">", "="):
            raise ValueError(f"an array of type {self.byte_order}{self.code} is not made of floats")
        return np.dtype(f"{self.byte_order}{self.code}")


class _StoredArray:
    """Stands for `numpy.ndarray` and the functions that numpy names to rebuild one."""

    def __init__(self, *arguments: Any) -> None:
        # `_frombuffer(buffer, dtype, shape, order)` brings everything at once, `_reconstruct` leaves it to the state.
        self.state: tuple[Any, ...] | None = None
        if len(arguments) == 4:
            buffer, dtype, shape, order = arguments
            self.state = (1, shape, dtype, order == "F", bytes(buffer))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def resolve(self) -> object:
        if self.state is None:
            raise ValueError("an array without content")
        _, shape, dtype, is_fortran, data = self.state
        if isinstance(data, list):  # an array of objects; np.save stores a dict as one without dimensions
            return _resolve(data[0])
        raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as str
        flat: NDArray[Any] = np.frombuffer(raw, dtype=dtype.resolve())
        return flat.reshape(shape, order="F" if is_fortran else "C")


class _Latin1Bytes:
    """Protocol 2 of Python 3 writes bytes as `_codecs.encode(text, "latin1")`; other codecs could do anything."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"codec {encoding} is not allowed in a file of weights")
        return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _StoredType,
    ("numpy", "ndarray"): _StoredArray,
    ("numpy.core.multiarray", "_reconstruct"): _StoredArray,
    ("numpy.core.numeric", "_frombuffer"): _StoredArray,
    ("_codecs", "encode"): _Latin1Bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved numpy.core to numpy._core
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return stand_in


def _resolve(content: object) -> object:
    """Arrays for their stand-ins, in nested dicts."""
    if isinstance(content, _StoredArray):
        return content.resolve()
    if isinstance(content, dict):
        return {str(key): _resolve(value) for key, value in content.items()}
    return content
