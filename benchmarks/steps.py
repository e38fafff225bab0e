"""The steps of the chain without the chain: what a PTransform does to each element."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from facemill.transforms.elements import Batch


def function_of(step: beam.PTransform) -> beam.DoFn:
    """The function that a step applies to each element, set up."""
    applied = beam.Pipeline(runner=FnApiRunner()) | beam.Create([Batch("unit", ())]) | step
    function = applied.producer.transform.fn
    function.setup()
    return function
