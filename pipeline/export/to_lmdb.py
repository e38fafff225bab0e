"""`--to lmdb`: one database per split, with the crops as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.export.samples import Format, Sample, Shard, Target

if TYPE_CHECKING:
    import lmdb

_BATCH_ITEMS = 3000
_BATCH_BYTES = 64 << 20
_SPARE_BYTES = 1 << 26


class Lmdb(Format):
    """`train.lmdb/data.mdb` with `image-000000000`, `label-000000000`, `face-000000000` and `num-samples`."""

    is_sharded = False

    def check(self) -> None:
        """The library is an extra."""
        try:
            import lmdb  # noqa: F401
        except ImportError as error:
            raise ConfigError('--to lmdb needs lmdb: pip install "facemill[lmdb]"') from error

    def entries(self, split: str) -> tuple[str, ...]:
        """The database's folder."""
        return (f"{split}.lmdb",)

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """The database of a split, which is made on this machine."""
        path = target.scratch / f"{shard.split.name}.lmdb"
        with _open(path, 2 * shard.num_bytes + _SPARE_BYTES) as database:

            def add(sample: Sample) -> None:
                database.put(f"image-{sample.key}", sample.content)
                database.put(f"label-{sample.key}", str(sample.class_index).encode())
                database.put(f"face-{sample.key}", sample.to_json())

            yield add
            database.put("num-samples", str(shard.num_samples).encode())
        target.destination.adopt(path / "data.mdb", f"{shard.split.name}.lmdb/data.mdb")


class _Database:
    """Puts items in batches; the file grows as it must."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._batch: list[tuple[bytes, bytes]] = []
        self._num_bytes = 0

    def put(self, key: str, value: bytes) -> None:
        self._batch.append((key.encode(), value))
        self._num_bytes += len(value)
        if len(self._batch) >= _BATCH_ITEMS or self._num_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        import lmdb

        while self._batch:
            try:
                with self._environment.begin(write=True) as transaction:
                    transaction.cursor().putmulti(self._batch)
                self._batch = []
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._num_bytes = 0


@contextmanager
def _open(path: Path, map_bytes: int) -> Iterator[_Database]:
    import lmdb

    try:
        with lmdb.open(str(path), map_size=map_bytes, lock=False, sync=False, meminit=True) as environment:
            database = _Database(environment)
            yield database
            database.flush()
            environment.sync(True)
    except (lmdb.Error, OSError) as error:
        advice = "if the disk is full, --scratch names another"  # LMDB calls that an input/output error
        raise OutputError(f"cannot write the database {path}: {error}; {advice}") from error
