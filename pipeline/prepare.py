"""From a request to the job and the plan: checked against what the output folder holds, and written down there."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TextIO

from facemill.models.errors import ConfigError
from facemill.pipeline.engines import check_reachable
from facemill.pipeline.job import Job
from facemill.pipeline.listing import Listing
from facemill.pipeline.manifest import Manifest, check_same_result, make_manifest, read_manifest
from facemill.pipeline.output_folder import check_whole
from facemill.pipeline.outputs import open_output
from facemill.pipeline.plan import Plan, append_units, plan_new_inputs, read_plan
from facemill.pipeline.request import RunRequest
from facemill.pipeline.roots import absolute_uri, check_disjoint, check_not_moved, name_roots
from facemill.transforms.ops.credentials import SIGNED_URLS
from facemill.transforms.ops.drivers import store_of
from facemill.transforms.ops.known_faces import KnownFaces
from facemill.transforms.ops.reading import split_source
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit


def prepare(
    request: RunRequest, listings: Sequence[Listing], committed: frozenset[str], err: TextIO
) -> tuple[Job, Plan]:
    """Append units for what is new, and say what every worker must know.

    Raises:
        ConfigError: The request does not fit to what the output folder holds.
        DamagedOutputError: The output folder is not whole.
    """
    output = request.output
    earlier = read_manifest(output)
    plan = read_plan(output)
    check_whole(output, plan, committed, has_manifest=earlier is not None)
    source = (
        _NewInputs(request, listings, earlier, plan, err) if request.tables is None else _Tables(request, earlier, err)
    )
    manifest = make_manifest(
        request.config,
        source.uris,
        tables=source.tables_uri,
        signed=source.signed,
        runs_here=request.runner is None,
    )
    if earlier is not None:
        for warning in check_same_result(earlier, manifest, output):
            err.write(f"warning: {warning}\n")
    units = source.units(plan)
    roots = {name: Folder(uri, request.storage_options) for name, uri in source.uris.items()}
    left = set(plan.names) - committed
    needed = plan.roots(left) | {split_source(unit.sources[0])[0] for unit in units}
    check_there(roots, needed)
    check_reach(request, [roots[name] for name in needed])
    if source.signed:
        _check_signatures(request, roots, frozenset(source.signed), itertools.chain(plan.units(left), units))
    if earlier is None or (earlier.inputs, earlier.signed) != (source.uris, source.signed):
        manifest.write(output)
    source.tell_new_roots()
    plan = append_units(output, plan, units)
    return Job(request.config, roots, output, source.known_faces, request.tables), plan


def check_there(roots: Mapping[str, Folder], needed: Collection[str]) -> None:
    """Refuse to go on without an input root: an archive whose disk is not mounted or that was moved is not written off.

    Raises:
        ConfigError: Names the input root.
    """
    for name in sorted(needed):
        if _is_gone(roots[name]):
            raise ConfigError(
                f"the input {name} ({roots[name].uri}) is gone; bring it back, then run the same command, "
                f"or say with --moved {name}=URI where it lies now"
            )


def check_reach(request: RunRequest, roots: Iterable[Folder]) -> Sequence[str]:
    """Refuse input roots, and other folders, that a runner cannot reach; returns warnings of those that it may not.

    Raises:
        ConfigError: Names the folder.
    """
    if request.runner is None:
        return []
    known = request.config.landmarks.known_faces
    others = [request.output, request.tables, Folder(known, request.storage_options).absolute() if known else None]
    return check_reachable(request.runner, request.beam_arguments, [*filter(None, others), *roots])


def _is_gone(root: Folder) -> bool:
    return root.is_local and not root.exists("")


def _check_signatures(
    request: RunRequest, roots: Mapping[str, Folder], signed: frozenset[str], units: Iterable[Unit]
) -> None:
    """Refuse to go on without the signatures of what is left: all of it would fail."""
    given = request.storage_options.get(SIGNED_URLS, {})
    for source in itertools.chain.from_iterable(unit.sources for unit in units):
        root, path = split_source(source)
        if source in signed and roots[root].join(path) not in given and store_of(roots[root].uri) == "http":
            again = (
                "name it again with --input, signed anew"
                if request.tables is None
                else f"fetch it, and say --moved {root}=FOLDER"
            )
            raise ConfigError(f"{source} was read by a signed URL, whose signature is not kept; {again}")


class _NewInputs:
    """What `facemill run` starts from: listed inputs."""

    tables_uri = ""

    def __init__(
        self, request: RunRequest, listings: Sequence[Listing], earlier: Manifest | None, plan: Plan, err: TextIO
    ) -> None:
        if not len(plan) and not listings:
            raise ConfigError(f"{request.output.uri} holds no run to go on with; name the --input")
        self._request = request
        known = earlier.inputs if earlier else {}
        self._earlier = {**known, **_moved(request, known)}
        self._named = name_roots(listings, self._earlier)
        self._err = err
        self.uris = {**self._earlier, **{name: listing.root.uri for name, listing in self._named.items()}}
        given = request.storage_options.get(SIGNED_URLS, {})
        new = {f"{name}/{path}" for name, at in self._named.items() for path in at.names if at.root.join(path) in given}
        self.signed = sorted({*(earlier.signed if earlier else ()), *new})
        self.known_faces = _known_faces(request)

    def units(self, plan: Plan) -> list[Unit]:
        """Units for the inputs that the plan does not have yet."""
        known = plan.known_sizes()
        check_disjoint(self._named, self._earlier, known)
        for warning in check_not_moved(self._named, self._earlier, known, told=self._request.moved):
            self._err.write(f"warning: {warning}\n")
        return plan_new_inputs(
            plan,
            self._named,
            self._request.config.run,
            on_split=lambda source: print(f"looking through {source}", file=self._err),
            on_whole=lambda message: print(message, file=self._err),
        )

    def tell_new_roots(self) -> None:
        for name in self._named.keys() - self._earlier.keys() if self._earlier else ():
            self._err.write(f"new input root {name} ({self.uris[name]}) beside {', '.join(sorted(self._earlier))}\n")


def _known_faces(request: RunRequest) -> Folder | None:
    known = request.config.landmarks.known_faces
    if not known:
        return None
    folder = Folder(known, request.storage_options)
    KnownFaces(folder)  # refuses what is no such table, before the manifest names it
    return folder if request.runner is None else folder.absolute()


class _Tables:
    """What `facemill crop` starts from: the committed units of an earlier output."""

    known_faces = None

    def __init__(self, request: RunRequest, earlier: Manifest | None, err: TextIO) -> None:
        assert request.tables is not None
        self._tables = request.tables
        self._err = err
        source = open_output(self._tables)
        self._committed = frozenset(source.units)
        if not self._committed:
            raise ConfigError(f"{self._tables.uri} holds no committed unit yet; finish that run first")
        there, here = source.manifest.inputs, earlier.inputs if earlier else {}
        still_here = {name: uri for name, uri in here.items() if not _is_gone(Folder(uri, request.storage_options))}
        self.uris = {**there, **still_here, **_moved(request, there)}
        self.tables_uri = self._tables.absolute().uri
        self.signed = source.manifest.signed

    def units(self, plan: Plan) -> list[Unit]:
        """The units that are committed there and are not planned here yet."""
        return unplanned_units(self._tables, self._committed, plan, self._err)

    def tell_new_roots(self) -> None:
        """They were told by the run that made the tables."""


def unplanned_units(tables: Folder, committed: frozenset[str], plan: Plan, err: TextIO) -> list[Unit]:
    """The units that are committed in `tables` and not planned here yet; `err` is told of those not committed.

    Raises:
        DamagedOutputError: The plan of `tables` lacks one that is committed.
    """
    there = read_plan(tables)
    check_whole(tables, there, committed, has_manifest=True)
    left = len(set(there.names) - committed)
    if left:
        why = "are not committed there, and left out; once they are, the same command does them"
        err.write(f"warning: {left:,} of {len(there):,} units of {tables.uri} {why}\n")
    known = set(plan.names)
    return list(there.units(name for name in there.names if name in committed and name not in known))


def _moved(request: RunRequest, known: Mapping[str, str]) -> dict[str, str]:
    """The new URIs, such that they do not depend on where the process runs."""
    unknown = sorted(request.moved.keys() - known.keys())
    if unknown:
        names = ", ".join(sorted(known)) or "no earlier run"
        raise ConfigError(f"--moved names the input {unknown[0]!r}, and there is {names}")
    return {name: absolute_uri(Folder(uri, request.storage_options)) for name, uri in request.moved.items()}
