"""The whole graph."""

from __future__ import annotations

from collections.abc import Mapping

import apache_beam as beam

from facemill.pipeline.job import Job
from facemill.transforms.align import AlignFaces
from facemill.transforms.decode import DecodeImages
from facemill.transforms.detect import DetectFaces, LookUpFaces
from facemill.transforms.judge import JudgeFaces
from facemill.transforms.landmarks import LocateLandmarks
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.reduction import ForCrops, ForDetection
from facemill.transforms.ops.units import Unit
from facemill.transforms.read import ReadImages
from facemill.transforms.write import WriteUnit


def process_units(
    units: beam.PCollection[Unit], *, job: Job, quarantined: Mapping[str, tuple[int, ...]]
) -> beam.PCollection[UnitSummary]:
    """Units in, committed units out: one fused chain, in which no image is ever moved between workers."""
    work = find_and_crop if job.tables is None else crop_again
    return work(units, job=job, quarantined=quarantined)


def find_and_crop(
    units: beam.PCollection[Unit], *, job: Job, quarantined: Mapping[str, tuple[int, ...]]
) -> beam.PCollection[UnitSummary]:
    """The faces of the images, found, judged and cut."""
    config = job.config
    detect = DetectFaces(config.detect) if job.known_faces is None else LookUpFaces(job.known_faces)
    # Known faces may be of any size, so their images are decoded in full.
    reduction = ForDetection(config.detect) if job.known_faces is None else None
    return (
        units
        | "Read" >> ReadImages(job.roots, config.read, job.output, config.run.batch_bytes, quarantined)
        | "Decode" >> DecodeImages(config.decode, config.run.batch_pixels, reduction)
        | "Detect" >> detect
        | "Landmarks" >> LocateLandmarks(config.detect, config.landmarks.relocate)
        | "Judge" >> JudgeFaces(config.judge)
        | "Align" >> AlignFaces(config.align, config.write)
        | "Write" >> WriteUnit(job.output, config.write, config.fingerprint, config.align.templates)
    )


def crop_again(
    units: beam.PCollection[Unit], *, job: Job, quarantined: Mapping[str, tuple[int, ...]]
) -> beam.PCollection[UnitSummary]:
    """The faces of earlier tables, in which they have been found and judged, cut anew."""
    config = job.config
    return (
        units
        | "Read" >> ReadImages(job.roots, config.read, job.output, config.run.batch_bytes, quarantined, job.tables)
        | "Decode" >> DecodeImages(config.decode, config.run.batch_pixels, ForCrops(config.align))
        | "Align" >> AlignFaces(config.align, config.write)
        | "Write" >> WriteUnit(job.output, config.write, config.fingerprint, config.align.templates)
    )
