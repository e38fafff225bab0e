"""Input roots: the short, stable names under which inputs appear in the tables."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import Listing
from facemill.transforms.ops.storage import Folder


def name_roots(listings: Sequence[Listing], earlier: Mapping[str, str]) -> dict[str, Listing]:
    """Give each root a name, and put listings of one root together.

    A root is called after its folder. Roots that an output folder knows keep their names; a second folder of the same
    name gets a number.

    Args:
        listings: One per `--input`.
        earlier: URI by name of the roots of earlier runs into the same output.
    """
    names = {uri: name for name, uri in earlier.items()}
    named: dict[str, Listing] = {}
    for listing in listings:
        uri = listing.root.uri
        if uri not in names:
            names[uri] = _free_name(uri, set(names.values()))
        name = names[uri]
        named[name] = _merge(named[name], listing) if name in named else listing
    return named


def _free_name(uri: str, taken: set[str]) -> str:
    base = uri.rstrip("/").rsplit("/", 1)[-1].rstrip(":") or "root"
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return name


def _merge(first: Listing, second: Listing) -> Listing:
    sizes = dict(zip(first.names, first.sizes, strict=True)) | dict(zip(second.names, second.sizes, strict=True))
    names = sorted(sizes)
    return replace(
        first,
        names=names,
        sizes=[sizes[name] for name in names],
        num_ignored=max(first.num_ignored, second.num_ignored),
    )


def check_disjoint(listings: Mapping[str, Listing], earlier: Mapping[str, str], known: Mapping[str, int]) -> None:
    """Refuse an input that was reached, or is reached now, by way of two roots.

    Args:
        listings: By root name.
        earlier: URI by name of the roots of earlier runs.
        known: The planned inputs, by `root/path`.

    Raises:
        ConfigError: Names such an input.
    """
    uris = {**earlier, **{name: listing.root.uri for name, listing in listings.items()}}
    places = {name: _place_of_uri(uri) for name, uri in uris.items()}
    reached = {name: set(listing.names) for name, listing in listings.items()}
    for outer, outer_uri in uris.items():
        for inner, inner_uri in uris.items():
            if inner == outer or not places[inner].startswith(places[outer]):
                continue
            below = places[inner][len(places[outer]) :]
            for path in reached.get(inner, ()):
                full = f"{below}{path}"
                if full in reached.get(outer, ()) or f"{outer}/{full}" in known:
                    raise ConfigError(_twice(full, outer_uri, inner_uri))
            for full in reached.get(outer, ()):
                if full.startswith(below) and f"{inner}/{full[len(below) :]}" in known:
                    raise ConfigError(_twice(full, outer_uri, inner_uri))


def check_not_moved(
    listings: Mapping[str, Listing],
    earlier: Mapping[str, str],
    known: Mapping[str, int],
    *,
    told: Collection[str] = (),
) -> list[str]:
    """Refuse a new root that looks like an earlier one, moved; returns warnings of those that share a part with one.

    It does where all inputs of the one are among those of the other by name and size, and at least half of the other's
    among them, unless both are listed now, or it was told where the earlier one lies.

    Args:
        listings: By root name.
        earlier: URI by name of the roots of earlier runs.
        known: The bytes of the planned inputs, by `root/path`.
        told: The earlier roots of which the user says where they lie.

    Raises:
        ConfigError: Names both, and the ways out.
    """
    warnings = []
    for new in sorted(listings.keys() - earlier.keys()):
        listing = listings[new]
        for old in sorted(earlier.keys() - listings.keys() - set(told)):
            sizes = zip(listing.names, listing.sizes, strict=True)
            num_alike = sum(size > 0 and known.get(f"{old}/{path}") == size for path, size in sizes)
            if not num_alike:
                continue
            share = f"{num_alike:,} of {len(listing.names):,} inputs of {listing.root.uri}"
            message = f"{share} have the name and size of one of {old} ({earlier[old]})"
            fewer, more = sorted([len(listing.names), sum(source.startswith(f"{old}/") for source in known)])
            if num_alike == fewer and 2 * num_alike >= more:
                raise ConfigError(
                    f"{message}, and would be in the output twice; if the folder was moved, add "
                    f"--moved {old}={listing.root.uri}; if these are others, --moved {old}={earlier[old]}"
                )
            warnings.append(f"{message}, and will be in the output twice")
    return warnings


def absolute_uri(folder: Folder) -> str:
    """The URI as that of a listing's root: it does not depend on where the process runs."""
    path = os.path.abspath(folder.path) if folder.is_local else folder.path.rstrip("/")
    return str(folder.fs.unstrip_protocol(path))


def _twice(path: str, outer_uri: str, inner_uri: str) -> str:
    return f"the input {path} lies below two input roots, {outer_uri} and {inner_uri}; name only one of them"


def leave_out(listing: Listing, output: Folder) -> Listing:
    """The listing without what lies in the output folder, whose files are no inputs."""
    target, prefix = _place(output), _place(listing.root)
    if not target.startswith(prefix):
        return listing
    below = target[len(prefix) :]
    pairs = [
        (name, size) for name, size in zip(listing.names, listing.sizes, strict=True) if not name.startswith(below)
    ]
    return replace(listing, names=[name for name, _ in pairs], sizes=[size for _, size in pairs])


def _place_of_uri(uri: str) -> str:
    """As `_place`, of a root that may lie on a store that is out of reach."""
    is_local = uri.startswith("file://")
    return _place(Folder(uri)) if is_local else uri.rstrip("/") + "/"


def _place(folder: Folder) -> str:
    """The URI with a slash at its end; on a local disk without links, so that one folder has one place."""
    path = os.path.realpath(folder.path or "/") if folder.is_local else folder.path
    return str(folder.fs.unstrip_protocol(path)).rstrip("/") + "/"
