"""Videos that OpenCV writes: their frames come out as they went in, and what is wrong with a file is told."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from pictures import jpeg, portrait, read_table, write_loose
from PIL import Image

from facemill.models.errors import FAILURE_REASONS, ConfigError
from facemill.pipeline.config import load_config
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.plan import plan_new_inputs, read_plan
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.members import Member, ReadLimits
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import ReadOptions, read_unit
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.video_containers import missing_bytes, sniff_container
from facemill.transforms.ops.videos import FrameChoice, iterate_video

NUM_CASES = int(os.environ.get("FACEMILL_FUZZ_CASES", "200"))
WIDTH, HEIGHT, RATE = 64, 48, 25
EVERY = FrameChoice(every_frames=1)
IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)  # ISO/IEC 14496-12, 8.3.2


def frame(number: int) -> np.ndarray:
    """(48, 64, 3) RGB: red above, blue below left, and the number as white and black squares in the last rows."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:24] = (200, 30, 10)
    pixels[24:40, :32] = (10, 40, 220)
    for bit in range(8):
        pixels[40:, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return pixels


def number_of(pixels: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if pixels[44, 8 * bit + 4].mean() > 127)


def write_video(path: Path, codec: str = "FFV1", num_frames: int = 60, rate: float = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(num_frames):
        writer.write(frame(number)[..., ::-1])
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi")


def read(path: Path, choice: FrameChoice = EVERY, limits: ReadLimits | None = None) -> list[Member]:
    return list(iterate_video(str(path), limits=limits or ReadLimits(), choice=choice))


def pixels(member: Member) -> np.ndarray:
    assert member.data is not None
    return np.asarray(Image.open(io.BytesIO(member.data)).convert("RGB"))


def reasons(members: Sequence[Member | ImageRecord]) -> list[str | None]:
    return [member.failure.reason if member.failure else None for member in members]


def message(member: Member) -> str:
    assert member.failure is not None
    return member.failure.message


def test_frames_come_out_as_they_went_in(video: Path) -> None:
    members = read(video)
    assert len(members) == 60
    for number, member in enumerate(members):
        np.testing.assert_array_equal(pixels(member), frame(number))
    assert [member.name for member in members[:3]] == ["00000000-0.000s", "00000001-0.040s", "00000002-0.080s"]


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        (FrameChoice(), [0, 25, 50]),
        (FrameChoice(every_seconds=0.5), [0, 13, 25, 38, 50]),  # the first from 0.5 s on is at 0.52 s
        (FrameChoice(every_seconds=0.04), list(range(60))),
        (FrameChoice(every_seconds=100), [0]),
        (FrameChoice(every_frames=20), [0, 20, 40]),
        (FrameChoice(every_frames=7, every_seconds=0.1), list(range(0, 60, 7))),
        (FrameChoice(every_frames=1000), [0]),
    ],
)
def test_frames_are_chosen_by_seconds_or_number(choice: FrameChoice, numbers: list[int], video: Path) -> None:
    members = read(video, choice)
    assert [number_of(pixels(member)) for member in members] == numbers
    assert [member.name for member in members] == [f"{number:08d}-{number / 25:.3f}s" for number in numbers]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mp4v"),
        ("a.m4v", "mp4v"),
        ("a.mov", "mp4v"),
        ("a.MOV", "png "),
        ("a.avi", "MJPG"),
        ("b.avi", "XVID"),
        ("a.mkv", "FFV1"),
        ("b.mkv", "mp4v"),
        ("a.webm", "VP80"),
        ("b.webm", "VP90"),
    ],
)
def test_containers_and_codecs(name: str, codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, codec, num_frames=30)
    members = read(path)
    assert [number_of(pixels(member)) for member in members] == list(range(30))
    for part in (np.s_[4:20], np.s_[28:36, 4:28]):  # neither red and blue nor above and below change places
        np.testing.assert_allclose(pixels(members[9])[part].mean((0, 1)), frame(9)[part].mean((0, 1)), atol=14)
    assert 0.9 * path.stat().st_size < sum(member.stored_bytes or 0 for member in members) <= path.stat().st_size


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_is_honoured(turns: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v", num_frames=3)
    one, minus_one = 0x10000, 0xFFFF0000
    matrix = {  # of a quarter of a turn, clockwise, and its powers
        1: (0, one, 0, minus_one, 0, 0, HEIGHT << 16, 0, 0x40000000),
        2: (minus_one, 0, 0, 0, minus_one, 0, WIDTH << 16, HEIGHT << 16, 0x40000000),
        3: (0, minus_one, 0, one, 0, 0, 0, WIDTH << 16, 0x40000000),
    }[turns]
    data = bytearray(path.read_bytes())
    at = data.index(IDENTITY, data.index(b"tkhd"))  # the one before is of the whole film
    data[at : at + len(IDENTITY)] = struct.pack(">9I", *matrix)
    path.write_bytes(data)
    expected = np.rot90(frame(0), -turns)
    found = pixels(read(path)[0])
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6


def test_frames_are_told_by_their_times_where_the_rate_varies(tmp_path: Path) -> None:
    times_ms = [0, 10, 20, 1500, 1510, 2990, 3010, 3020, 3030, 9000]
    path = write_video(tmp_path / "a.mkv", "MJPG", num_frames=len(times_ms))  # which has key frames only
    data = bytearray(path.read_bytes())
    at = 0
    for number, time_ms in enumerate(times_ms):  # a SimpleBlock: track, time, flags (RFC 9559, 10.2)
        at = data.index(b"\x81" + struct.pack(">h", 40 * number) + b"\x80", at) + 1
        data[at : at + 2] = struct.pack(">h", time_ms)
    path.write_bytes(data)
    names = [member.name for member in read(path, FrameChoice())]
    assert names == ["00000000-0.000s", "00000003-1.500s", "00000005-2.990s", "00000006-3.010s", "00000009-9.000s"]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "FFV1"), ("a.avi", "MJPG"), ("a.mkv", "FFV1"), ("a.webm", "VP80")]
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_video_that_is_cut_off_keeps_its_whole_frames(name: str, codec: str, share: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, codec)
    whole = [pixels(member) for member in read(path)]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    *frames, last = read(path)
    assert (last.name, reasons([last])) == ("", ["truncated"])
    assert f"cut short after frame {len(frames) - 1}: " in message(last)
    assert 60 * (share - 0.28) < len(frames) < 60
    for expected, member in zip(whole, frames, strict=False):
        np.testing.assert_array_equal(pixels(member), expected)


def test_an_mp4_whose_index_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:-100])
    (member,) = read(path)
    assert (member.name, reasons([member])) == ("", ["truncated"])


def test_damage_inside_costs_what_it_hits_and_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", "png ")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data.startswith(b"\x89PNG", at)]
    assert len(starts) == 60
    for number in (10, 11, 30):
        data[starts[number] : starts[number] + 8] = bytes(8)
    path.write_bytes(data)
    members = read(path)
    assert [number_of(pixels(m)) for m in members if m.data] == [n for n in range(60) if n not in (10, 11, 30)]
    assert [(m.name, m.failure) for m in members if m.failure] == [
        (
            "00000010-0.480s-damaged",
            ("decode_error", "damaged: frames right before this one that cannot be decoded: 2"),
        ),
        (
            "00000028-1.240s-damaged",
            ("decode_error", "damaged: frames right before this one that cannot be decoded: 1"),
        ),
    ]


def test_a_matroska_file_that_ends_before_its_time_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", num_frames=100)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # the duration, a double in ms
    assert struct.unpack(">d", data[at : at + 8]) == (4000.0,)
    data[at : at + 8] = struct.pack(">d", 10_000.0)
    path.write_bytes(data)
    *frames, last = read(path)
    assert len(frames) == 100
    assert message(last) == "no frame after 3.960 s of 10.000 s: damaged, or another track is longer"


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (b"", "empty", "no bytes"),
        (jpeg(frame(0)), "unsupported_format", "JPEG, no video"),
        (b"text that is no video", "unsupported_format", "no video of a known container"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.avi\n", "unsupported_format", "no video"),
        (b"ffconcat version 1.0\nfile clip.avi\n", "unsupported_format", "no video"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "unsupported_format", "no video"),
        (b"\0\0\0\x20ftypisom" + bytes(400), "truncated", "cut short"),
        (b"\x1a\x45\xdf\xa3" + bytes(400), "decode_error", "no video can be opened"),
    ],
)
def test_what_is_no_video_gets_one_row(data: bytes, reason: str, text: str, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi")
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    (member,) = read(path)
    assert (member.name, reasons([member])) == ("", [reason])
    assert text in message(member)


def test_a_video_without_frames_is_empty(tmp_path: Path) -> None:
    (member,) = read(write_video(tmp_path / "a.avi", num_frames=0))
    assert (member.name, reasons([member])) == ("", ["empty"])


def test_a_codec_without_decoder_is_named(video: Path) -> None:
    data = video.read_bytes()
    assert data.count(b"FFV1") == 2
    video.write_bytes(data.replace(b"FFV1", b"XXXX"))
    (member,) = read(video)
    assert member.failure is not None
    assert member.failure.reason in ("unsupported_format", "decode_error")


def test_large_frames_are_not_decoded(video: Path) -> None:
    (member,) = read(video, limits=ReadLimits(max_member_bytes=WIDTH * HEIGHT * 3 - 1))
    assert reasons([member]) == ["too_large"]
    assert "a frame of 64 x 48 pixels takes 9216 bytes, the limit is 9215" in message(member)
    assert len(read(video, limits=ReadLimits(max_member_bytes=WIDTH * HEIGHT * 3))) == 60


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "FFV1"), ("a.mkv", "FFV1")])
def test_missing_bytes(name: str, codec: str, tmp_path: Path) -> None:
    data = write_video(tmp_path / name, codec).read_bytes()
    container = sniff_container(data[:16])
    assert container is not None
    assert missing_bytes(io.BytesIO(data), container) == 0
    assert missing_bytes(io.BytesIO(data + bytes(1000)), container) == 0
    assert missing_bytes(io.BytesIO(data + b"appended text"), container) == 0
    assert [missing_bytes(io.BytesIO(data[:-num_bytes]), container) for num_bytes in (1, 100)] == [1, 100]
    assert 0 < missing_bytes(io.BytesIO(data[: len(data) // 2]), container) <= len(data) // 2 + 1


@pytest.mark.parametrize("container", ["mp4", "avi", "matroska"])
def test_hostile_sizes_end(container: str) -> None:
    heads = {
        "mp4": b"\0\0\0\1moov" + b"\xff" * 8,
        "avi": b"RIFF\xff\xff\xff\xff",
        "matroska": b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 7,
    }
    for data in (heads[container], heads[container] * 100, bytes(300), b""):
        assert missing_bytes(io.BytesIO(data), container) >= 0  # type: ignore[arg-type]


def test_damaged_videos_end(tmp_path: Path) -> None:
    seeds = [
        write_video(tmp_path / name, codec, num_frames=30).read_bytes()
        for name, codec in (("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "FFV1"), ("a.webm", "VP80"))
    ]
    path = tmp_path / "damaged.mp4"
    num_failures = 0
    for case in range(NUM_CASES):
        random_case = random.Random(case)
        data = bytearray(random_case.choice(seeds))
        for _ in range(random_case.randrange(1, 6)):
            at = random_case.randrange(min(len(data), random_case.choice([600, len(data)])))
            data[at : at + random_case.choice([1, 4, 100])] = random_case.choice(
                [b"", b"\xff" * 4, random_case.randbytes(9)]
            )
        path.write_bytes(data)
        members = read(path, FrameChoice(every_frames=3), ReadLimits(max_member_bytes=10_000_000))
        assert all((member.data is None) == (member.failure is not None) for member in members)
        assert {reason for reason in reasons(members) if reason} <= set(FAILURE_REASONS)
        names = [member.name for member in members]
        assert len(set(names)) == len(names)
        assert "" not in names[:-1]
        num_failures += any(reasons(members))
    assert num_failures > NUM_CASES // 4


def test_nothing_is_printed(tmp_path: Path) -> None:
    """In a process of its own, as the tests' writer has FFmpeg set up already."""
    for name, codec in (("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "FFV1")):
        data = write_video(tmp_path / name, codec).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
        damaged = bytearray(data)
        damaged[len(data) // 2 : len(data) // 2 + 500] = os.urandom(500)
        (tmp_path / f"damaged_{name}").write_bytes(damaged)
    code = (
        "import sys\n"
        "from facemill.transforms.ops.members import ReadLimits\n"
        "from facemill.transforms.ops.videos import FrameChoice, iterate_video\n"
        "for path in sys.argv[1:]:\n"
        "    list(iterate_video(path, limits=ReadLimits(), choice=FrameChoice()))\n"
    )
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(paths) == 9
    done = subprocess.run([sys.executable, "-c", code, *paths, "missing"], capture_output=True, text=True, check=False)
    assert "FileNotFoundError" in done.stderr  # of the last path: all others were read
    assert done.stderr.startswith("Traceback")
    assert done.stdout == ""


def unit_of(*names: str) -> Unit:
    return Unit("unit-000000", "videos", tuple(f"in/{name}" for name in names), (1,) * len(names), len(names))


def records(folder: str, *names: str, skip: Sequence[int] = (), label: str = "auto") -> list[ImageRecord]:
    options = ReadOptions(video_every_frames=20, label=label)  # type: ignore[arg-type]
    return list(read_unit(unit_of(*names), {"in": Folder(folder)}, options, skip=skip))


def test_a_unit_reads_one_video_after_the_other(tmp_path: Path) -> None:
    write_video(tmp_path / "ann" / "1.avi")
    write_video(tmp_path / "bob" / "2.mkv", num_frames=21)
    found = records(str(tmp_path), "ann/1.avi", "ann/missing.mp4", "bob/2.mkv")
    assert [record.image_id for record in found] == [
        "in/ann/1.avi/00000000-0.000s",
        "in/ann/1.avi/00000020-0.800s",
        "in/ann/1.avi/00000040-1.600s",
        "in/ann/missing.mp4",
        "in/bob/2.mkv/00000000-0.000s",
        "in/bob/2.mkv/00000020-0.800s",
    ]
    assert [record.index for record in found] == list(range(6))
    assert [record.label for record in found] == ["ann"] * 4 + ["bob"] * 2
    assert reasons(found) == [None] * 3 + ["read_error"] + [None] * 2
    assert {record.label for record in records(str(tmp_path), "ann/1.avi", label="column")} == {None}


def test_a_frame_that_kills_the_worker_costs_the_rest_of_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = [0] * len(heartbeat.Slot)
    monkeypatch.setattr(heartbeat, "_array", slots)
    for name in ("1.avi", "2.avi"):
        write_video(tmp_path / name)
    unit = unit_of("1.avi", "2.avi")
    in_hand = []
    original = cv2.imencode

    def watch(extension: str, image: np.ndarray) -> object:
        in_hand.append(slots[heartbeat.Slot.IMAGE_INDEX])
        return original(extension, image)

    monkeypatch.setattr(cv2, "imencode", watch)
    roots = {"in": Folder(str(tmp_path))}
    found = list(read_unit(unit, roots, ReadOptions(video_every_frames=20), skip=[1]))
    assert in_hand == [0, 2, 3, 4]
    assert slots[heartbeat.Slot.IMAGE_INDEX] == -1
    assert slots[heartbeat.Slot.BEATS] > 60
    assert [record.member[:8] for record in found] == ["00000000", "", "00000000", "00000020", "00000040"]
    assert reasons(found) == [None, "internal_error", None, None, None]


def test_a_video_elsewhere_is_copied_for_a_while(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/clip.avi", video.read_bytes())
    names = []
    options = ReadOptions(video_every_frames=20)
    for record in read_unit(unit_of("clip.avi"), {"in": Folder(f"memory://{tmp_path.name}")}, options):
        names.append(record.member)
        assert len(list(copies.iterdir())) == 1
    assert names == [record.member for record in records(str(video.parent), "clip.avi")]
    assert len(names) == 3
    assert not list(copies.iterdir())


def test_a_name_that_is_no_utf8_and_a_pipe(video: Path) -> None:
    name = os.fsdecode(b"\xff.avi")
    video.rename(video.with_name(name))
    assert reasons(records(str(video.parent), name)) == [None] * 3
    os.mkfifo(video.with_name("pipe.mp4"))
    assert reasons(records(str(video.parent), "pipe.mp4")) == ["read_error"]


def test_videos_are_planned_in_runs(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.MKV", "b/3.webm", "b/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(3_000_000))
    listing = list_inputs(str(tmp_path), ignored_extensions=())
    units = plan_new_inputs(read_plan(Folder("memory://no-plan")), {"in": listing}, RunOptions(unit_bytes=7_000_000))
    assert [(unit.kind, unit.sources) for unit in units] == [
        ("files", ("in/b/4.jpg",)),
        ("videos", ("in/a/1.mp4",)),
        ("videos", ("in/a/2.MKV",)),
        ("videos", ("in/b/3.webm",)),
    ]
    assert [unit.num_planned for unit in units] == [1, None, None, None]


@pytest.mark.parametrize(
    ("name", "value"), [("video_every_frames", 0), ("video_every_seconds", 0.0), ("video_every_seconds", float("inf"))]
)
def test_impossible_choices_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be positive, got {value}"):
        ReadOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_over_a_video_finds_what_its_frames_hold(tmp_path: Path) -> None:
    """The frames as loose BMP files give the same rows."""
    faces = [np.asarray(Image.open(io.BytesIO(portrait(number))).convert("RGB")) for number in range(3)]
    (tmp_path / "videos" / "ann").mkdir(parents=True)
    path = str(tmp_path / "videos" / "ann" / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 1, faces[0].shape[1::-1])
    for face in faces:
        writer.write(face[..., ::-1])
    writer.release()
    members = read(Path(path))
    write_loose(tmp_path / "frames", {f"ann/{member.name}.bmp": member.data or b"" for member in members})
    tables = {}
    for name in ("videos", "frames"):
        output = Folder(str(tmp_path / f"out-{name}"))
        assert run(RunRequest([str(tmp_path / name)], output, load_config())).is_complete
        tables[name] = [read_table(Path(output.path), table) for table in ("images", "faces")]
    by_image, by_face = (
        ("sha256", "label", "status", "num_faces", "width"),
        ("x1", "y1", "score", "landmarks", "yaw_deg"),
    )
    for index, columns in enumerate((by_image, by_face)):
        of_videos, of_frames = ([[row[c] for c in columns] for row in tables[name][index]] for name in tables)
        assert len(of_videos) == 3
        assert of_videos == of_frames
    assert [row["image_id"] for row in tables["videos"][0]] == [f"videos/ann/clip.avi/{m.name}" for m in members]
