"""Estimates what an archive costs on rented machines, from a measured rate and prices of your own.

    python benchmarks/cost.py (--images-per-s N | --output OUT) --vcpus N --memory-gb N --disk-gb N
        --vcpu-hour PRICE --memory-gb-hour PRICE --disk-gb-hour PRICE
        [--images N] [--machines N ...] [--utilisation SHARE] [--start-up-minutes N]

The rate is of one worker process, which takes one core. `--output` names a finished run: its commit markers say how
many images its workers did in how many seconds. Measure on the machine type that you would rent, as a vCPU of a cloud
is mostly one of the two threads of a core. Prices are per hour, in whatever currency you give them. Not in it: storage,
requests and traffic of the object store.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from facemill.models.errors import FacemillError, OutputError
from facemill.pipeline.summary import committed_units, read_summaries
from facemill.transforms.ops.storage import Folder


@dataclass(frozen=True)
class Machine:
    """A rented machine and what its parts cost per hour."""

    vcpus: int
    memory_gb: float
    disk_gb: float
    vcpu_hour: float
    memory_gb_hour: float
    disk_gb_hour: float

    @property
    def per_hour(self) -> float:
        """The price of one machine for one hour."""
        return self.vcpus * self.vcpu_hour + self.memory_gb * self.memory_gb_hour + self.disk_gb * self.disk_gb_hour


@dataclass(frozen=True)
class Estimate:
    """What a run takes on some number of machines."""

    num_machines: int
    hours: float
    cost: float
    per_million: float


def estimate(
    machine: Machine,
    *,
    num_machines: int,
    num_images: int,
    images_per_s: float,
    utilisation: float,
    start_up_s: float,
) -> Estimate:
    """The time and the cost of `num_images` on machines of which each vCPU does `images_per_s` while it works.

    Args:
        machine: What is rented.
        num_machines: How many of it, from beginning to end.
        num_images: Of the archive.
        images_per_s: Of one worker process, on one vCPU.
        utilisation: The share of the time in which a vCPU works, (0, 1]; the rest is waiting for the store and for the
            last units.
        start_up_s: From when a machine is paid for to its first image.
    """
    work_s = num_images / (images_per_s * utilisation * machine.vcpus * num_machines)
    hours = (start_up_s + work_s) / 3600
    cost = num_machines * hours * machine.per_hour
    return Estimate(num_machines, hours, cost, cost / num_images * 1e6)


def measured_rate(output: Folder) -> float:
    """Images per second of one worker process in a run, over all of its committed units.

    Raises:
        OutputError: Nothing is committed there.
    """
    summaries = read_summaries(output, committed_units(output))
    seconds = sum(summary.seconds for summary in summaries)
    if not seconds:
        raise OutputError(f"{output.uri} holds no committed unit, so that it says nothing of speed")
    return sum(summary.num_images for summary in summaries) / seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, estimate, report; returns the exit code."""
    options = _parse(arguments)
    machine = Machine(
        vcpus=options.vcpus,
        memory_gb=options.memory_gb,
        disk_gb=options.disk_gb,
        vcpu_hour=options.vcpu_hour,
        memory_gb_hour=options.memory_gb_hour,
        disk_gb_hour=options.disk_gb_hour,
    )
    try:
        rate = options.images_per_s or measured_rate(Folder(options.output))
    except FacemillError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    rows = [
        estimate(
            machine,
            num_machines=num_machines,
            num_images=options.images,
            images_per_s=rate,
            utilisation=options.utilisation,
            start_up_s=options.start_up_minutes * 60,
        )
        for num_machines in options.machines
    ]
    sys.stdout.write(
        f"{options.images:,} images at {rate:.3g} a second and vCPU, {options.utilisation:.0%} used, "
        f"{options.start_up_minutes:g} minutes to start; {machine.vcpus} vCPU at {machine.per_hour:.4g} an hour\n\n"
        "| machines | hours | cost | cost per million |\n| --- | --- | --- | --- |\n"
    )
    for row in rows:
        sys.stdout.write(f"| {row.num_machines:,} | {row.hours:,.2f} | {row.cost:,.2f} | {row.per_million:,.3f} |\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Estimate the cost of an archive on rented machines.")
    rate = parser.add_mutually_exclusive_group(required=True)
    rate.add_argument("--images-per-s", type=_positive, metavar="N", help="of one worker process")
    rate.add_argument("--output", metavar="OUT", help="a finished run that was done at that rate")
    parser.add_argument("--vcpus", type=_whole, required=True, metavar="N", help="of a machine")
    parser.add_argument("--memory-gb", type=_positive, required=True, metavar="N", help="of a machine")
    parser.add_argument("--disk-gb", type=_positive, required=True, metavar="N", help="of a machine")
    parser.add_argument("--vcpu-hour", type=_price, required=True, metavar="PRICE")
    parser.add_argument("--memory-gb-hour", type=_price, required=True, metavar="PRICE")
    parser.add_argument("--disk-gb-hour", type=_price, required=True, metavar="PRICE")
    parser.add_argument("--images", type=_whole, default=1_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--machines", type=_whole, nargs="+", default=[1, 10, 100], metavar="N")
    parser.add_argument("--utilisation", type=_share, default=0.9, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--start-up-minutes", type=_price, default=5.0, metavar="N", help="default: %(default)s")
    return parser.parse_args(arguments)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _price(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must not be below 0, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
