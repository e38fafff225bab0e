"""What flows between the steps: batches of images, and the end of a unit."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import apache_beam as beam

from facemill.models.errors import BadInputError, FacemillError
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.records import Failure, ImageRecord

_logger = logging.getLogger(__name__)


class Element:
    """What flows between the steps: a `Batch` or an `EndOfUnit`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Batch(Element):
    """Some images of one unit, in their order, bounded in bytes by the step that made it."""

    unit: str
    records: tuple[ImageRecord, ...]


@dataclass(frozen=True, slots=True)
class EndOfUnit(Element):
    """Comes after the last batch of a unit and says how many images there were, and of which marker their faces are."""

    unit: str
    num_images: int
    started_at: float  # time.time() when reading began
    source_digest: str = ""  # of the marker in the earlier output; empty where faces are found anew


class ElementCoder(beam.coders.Coder):
    """Pickles elements where a runner must move them, and estimates their size without doing so."""

    def encode(self, value: Element) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> Element:
        return pickle.loads(encoded)

    def estimate_size(self, value: Element) -> int:
        """Bytes of the pixels, of the encoded files and of the crops, the rest being small."""
        if not isinstance(value, Batch):
            return 64
        return sum(256 + _num_bytes(record) for record in value.records)

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return Element


beam.coders.registry.register_coder(Element, ElementCoder)


def _num_bytes(record: ImageRecord) -> int:
    crops = () if record.faces is None else record.faces.crops
    return (
        len(record.data or b"")
        + (0 if record.image is None else record.image.nbytes)
        + sum(len(content) for contents in crops for content in contents or ())
    )


def map_images(element: Element, step: Callable[[ImageRecord], ImageRecord]) -> Element:
    """Apply `step` to each image of a batch that has not failed; an `EndOfUnit` passes through."""
    if not isinstance(element, Batch):
        return element
    return Batch(element.unit, tuple(apply_step(record, step) for record in element.records))


def apply_step(record: ImageRecord, step: Callable[[ImageRecord], ImageRecord]) -> ImageRecord:
    """Apply `step` to one image; what is wrong with the image becomes its `failure`."""
    if record.failure is not None:
        return record
    heartbeat.begin_image(record.index)
    try:
        return step(record)
    except BadInputError as error:
        return fail(record, Failure(error.reason, error.message))
    except FacemillError:
        raise
    except Exception as error:
        # One picture that meets a bug must not cost the archive: it gets its row, and the log the traceback.
        _logger.exception("internal error on %s", record.image_id)
        return fail(record, Failure("internal_error", f"{type(error).__name__}: {error}"))
    finally:
        heartbeat.end_image()


def fail(record: ImageRecord, failure: Failure) -> ImageRecord:
    """The record of an image that is given up; it no longer holds bytes or pixels."""
    return dataclasses.replace(record, failure=failure, data=None, image=None, pyramid=None, faces=None)
