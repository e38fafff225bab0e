"""How many kept faces each identity has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import duckdb

_MAX_LARGEST = 12


class Identity(NamedTuple):
    """An identity: a label, its inputs and its kept faces."""

    label: str
    num_images: int
    num_kept: int


class Band(NamedTuple):
    """How many identities have from `low` to `high` kept faces."""

    low: int
    high: int
    num_identities: int


@dataclass(frozen=True)
class People:
    """The identities of an output.

    Attributes:
        num_identities: Labels in the table of inputs.
        num_unlabelled: Inputs without a label.
        num_shared: Inputs with a label and several kept faces.
        median_kept: At least half of the identities have so many kept faces.
        bands: Identities by kept faces: none, 1, 2 to 3, 4 to 7, and so on, up to the largest.
        largest: Those with the most kept faces.
    """

    num_identities: int
    num_unlabelled: int
    num_shared: int
    median_kept: int
    bands: tuple[Band, ...]
    largest: tuple[Identity, ...]

    @property
    def most_in_band(self) -> int:
        """The number of identities in the fullest band."""
        return max((band.num_identities for band in self.bands), default=0)


def count_people(connection: duckdb.DuckDBPyConnection) -> People:
    """Count the labels of the view `images`."""
    connection.execute(
        "create or replace temp table people as "
        "select label, count(*) as num_images, sum(num_kept)::bigint as num_kept "
        "from images where label is not null group by label"
    )
    sums = "select count(*), quantile_disc(num_kept, 0.5) from people"
    num_identities, median = connection.execute(sums).fetchall()[0]
    num_unlabelled, num_shared = connection.execute(
        "select count(*) filter (label is null), count(*) filter (label is not null and num_kept > 1) from images"
    ).fetchall()[0]
    exponents = connection.execute(
        "select if(num_kept = 0, -1, floor(log2(num_kept))::int) as exponent, count(*) from people group by 1"
    ).fetchall()
    largest = connection.execute(
        f"select * from people order by num_kept desc, num_images desc, label limit {_MAX_LARGEST}"
    ).fetchall()
    connection.execute("drop table people")
    return People(
        num_identities,
        num_unlabelled,
        num_shared,
        median or 0,
        _bands(dict(exponents)),
        tuple(Identity(*row) for row in largest),
    )


def _bands(counts: dict[int, int]) -> tuple[Band, ...]:
    """Bands from the number of identities by the logarithm of their faces, -1 being no face."""
    return tuple(
        Band(0, 0, counts.get(exponent, 0))
        if exponent < 0
        else Band(2**exponent, 2 ** (exponent + 1) - 1, counts.get(exponent, 0))
        for exponent in range(-1, max(counts, default=-1) + 1)
        if exponent >= 0 or exponent in counts
    )
