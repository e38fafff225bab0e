"""The tables of `facemill duplicates`, for exports that take one of a group alone."""

from __future__ import annotations

import pyarrow.dataset as ds

from facemill.models.errors import ConfigError
from facemill.pipeline.export.options import Duplicates
from facemill.pipeline.outputs import Output


def open_duplicates(output: Output, kind: Duplicates | None) -> ds.Dataset | None:
    """The table of the duplicates of that kind: of images where they are exact, of faces where they are near.

    Raises:
        ConfigError: There is none.
    """
    if kind is None:
        return None
    name = f"duplicates/{'images' if kind == 'exact' else 'faces'}.parquet"
    if not output.folder.exists(name):
        uri = output.folder.uri
        raise ConfigError(f"{uri} has no table of duplicates; facemill duplicates {uri} makes it")
    return ds.dataset(output.folder.join(name), format="parquet", filesystem=output.folder.fs)
