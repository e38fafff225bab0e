"""The report that a command leaves behind, where its own tables have changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from facemill.pipeline.errors import brief
from facemill.transforms.ops.credentials import redact
from facemill.transforms.ops.layout import REPORT
from facemill.transforms.ops.storage import Folder


def write_report(
    output: Folder, storage_options: Mapping[str, Any], *, is_changed: bool = True, out: TextIO, err: TextIO
) -> None:
    """Write the page on the output, where there is anything new; that it cannot be costs nothing but a warning."""
    from facemill.pipeline.report.make import ReportOptions, make_report

    try:
        if is_changed or not output.exists(REPORT):
            make_report(output, ReportOptions(storage_options=storage_options), err=err)
    except Exception as error:  # whatever it is, the command itself is done
        again = f"facemill report {output.uri} tries it again"
        err.write(f"warning: the report could not be made ({redact(brief(error))}); {again}\n")
    else:
        out.write(f"report    {output.shown(REPORT)}\n")
