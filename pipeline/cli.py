"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from facemill.models.errors import ConfigError, DamagedOutputError, FacemillError

EXIT_DONE, EXIT_LOST, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nSee {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `facemill` command; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    _fill_closed_streams()
    parser = _make_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown and getattr(known, "runner", None) is None:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    advice = getattr(known, "advice", "")
    try:
        code = int(known.command(known, unknown))
        sys.stdout.flush()  # a reader that went away is met here, not at the interpreter's exit
        return code
    except ConfigError as error:
        return _fail(error, EXIT_USAGE)
    except DamagedOutputError as error:
        return _fail(error, EXIT_LOST)
    except FacemillError as error:
        return _fail(error, EXIT_LOST, advice)
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted{advice}\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not complain again
        return EXIT_LOST
    except OSError as error:  # of a file or folder of the output that may not be listed, read or locked
        return _fail(error, EXIT_LOST, advice)


def _fill_closed_streams() -> None:
    """Open the null device for closed streams, as some file of the output would take their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is the stream's
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: Exception, code: int, advice: str = "") -> int:
    sys.stderr.write(f"facemill: {error}{advice}\n")
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="facemill", description="From archives of photographs to aligned face crops and tables.")
    parser.add_argument("--version", action="version", version=f"facemill {metadata.version('facemill')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_detect(commands)
    _add_demo(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="images or shards in, aligned crops and tables out",
        description="Detect, landmark, judge and align every face of an archive. Interrupt it anywhere: the same "
        "command goes on. With more input, only the new is done.",
        epilog="With --runner, all further options go to Beam; docs/running.md has a page for each engine. "
        "Exit codes: 0 done, 1 something was lost or does not balance, 2 bad usage or configuration, 130 interrupted.",
    )
    run.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="URI",
        help="folders, globs or files: images, .tar, .tar.gz, .zip, .parquet; local or any fsspec URL. "
        "Without it, an output folder's earlier plan is finished",
    )
    run.add_argument("--output", required=True, metavar="URI", help="the output folder, local or any fsspec URL")
    _add_config(run)
    run.add_argument(
        "--workers",
        type=_positive,
        default=_num_cores(),
        metavar="N",
        help="processes on this machine (default: %(default)s); a cluster has its own",
    )
    run.add_argument("--faces", metavar="URI", help="a Parquet table of known faces, instead of detecting")
    run.add_argument(
        "--retry-failed", action="store_true", help="do units with empty files, read or internal errors again"
    )
    run.add_argument("--storage-options", type=_mapping, default={}, metavar="JSON", help="for fsspec, such as keys")
    run.add_argument("--runner", metavar="R", help="FlinkRunner, SparkRunner, DataflowRunner or another of Beam's")
    run.add_argument("--beam-options", metavar="FILE", help="YAML file of options for the Beam runner")
    run.add_argument("--detach", action="store_true", help="submit the runner's job and leave it to itself")
    run.set_defaults(command=_run, advice="; what was committed is valid, and the same command goes on from there")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="NAME|FILE", help="a preset's name or a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="e.g. detect.min_face_size_px=40",
    )


def _add_detect(commands: Any) -> None:
    detect = commands.add_parser(
        "detect",
        help="print the faces of images as JSON",
        description="Print the faces of images as JSON, in the schema of the mtcnn package: box (x, y, width, "
        "height), confidence, keypoints. For one image a list; for several, a line of JSON per image.",
    )
    detect.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, globs, URLs, or - for standard input"
    )
    detect.add_argument("--draw", metavar="DIR", help="also write each picture with its boxes and points into DIR")
    detect.add_argument("--storage-options", type=_mapping, default={}, metavar="JSON", help="for fsspec, such as keys")
    _add_config(detect)
    detect.set_defaults(command=_detect)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="run the main job on public-domain photographs that come with installed packages",
        description="Pack photographs of scikit-image and matplotlib into a tar shard and run the main job on it. "
        'They come with: pip install "facemill[demo]"',
    )
    demo.add_argument("--output", default="facemill-demo", metavar="DIR", help="default: %(default)s")
    demo.set_defaults(command=_demo)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text}")
    return value


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    from facemill.pipeline.config import load_config
    from facemill.pipeline.manifest import configuration_of
    from facemill.pipeline.run import RunRequest, run
    from facemill.transforms.ops.storage import Folder

    output = Folder(options.output, options.storage_options)
    settings = [*options.settings, *([f"landmarks.known_faces={json.dumps(options.faces)}"] if options.faces else [])]
    is_bare = not (options.input or options.config or settings)  # it finishes what was begun, as it was begun
    config = (configuration_of(output) if is_bare else None) or load_config(options.config, settings)
    result = run(
        RunRequest(
            inputs=options.input,
            output=output,
            config=config,
            num_workers=options.workers,
            runner=options.runner,
            beam_arguments=beam_arguments,
            beam_options=options.beam_options,
            detach=options.detach,
            storage_options=options.storage_options,
            retry_failed=options.retry_failed,
        )
    )
    return EXIT_DONE if result.is_complete else EXIT_LOST


def _detect(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.config import load_config
    from facemill.pipeline.detect import detect_images

    config = load_config(options.config, options.settings)
    all_read = detect_images(
        options.images, config=config, draw_folder=options.draw, storage_options=options.storage_options
    )
    return EXIT_DONE if all_read else EXIT_LOST


def _demo(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.demo import run_demo

    return EXIT_DONE if run_demo(options.output) else EXIT_LOST


if __name__ == "__main__":
    sys.exit(main())
