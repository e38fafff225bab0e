"""The configuration: overlay, types, unknown keys, impossible values."""

from __future__ import annotations

from pathlib import Path

import pytest

from facemill.models.errors import ConfigError
from facemill.pipeline.config import Config, describe_differences, load_config
from facemill.pipeline.presets import preset_names


def test_defaults_are_the_references() -> None:
    config = load_config()
    assert config == Config()
    assert config.detect.min_face_size_px == 20
    assert config.detect.scale_factor == 0.709
    assert config.detect.score_thresholds == (0.6, 0.7, 0.7)


def test_every_preset_loads() -> None:
    assert len(preset_names()) >= 2
    for name in preset_names():
        assert isinstance(load_config(name), Config)


def test_file_is_laid_over_the_defaults_and_settings_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("detect:\n  min_face_size_px: 40\n  score_thresholds: [0.5, 0.6, 0.9]\n")
    config = load_config(str(file), ["detect.min_face_size_px=30", "write.image_format=png"])
    assert config.detect.min_face_size_px == 30
    assert config.detect.score_thresholds == (0.5, 0.6, 0.9)
    assert config.write.image_format == "png"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("detect.min_face_size=40", "unknown key detect.min_face_size; did you mean min_face_size_px?"),
        ("detekt.min_face_size_px=40", "did you mean detect?"),
        ("detect.min_face_size_px=large", "detect.min_face_size_px: Input should be a valid number"),
        ("detect.score_thresholds=0.5", "detect.score_thresholds"),
        ("write.crops=folder", "write.crops"),
        ("write.jpeg_quality=0", "write.jpeg_quality must lie in [1, 100], got 0"),
        ("write.jpeg_quality=yes", "write.jpeg_quality: Input should be a valid integer, got True"),
        ("detect.scale_factor=1.2", "detect.scale_factor must lie in (0, 0.99], got 1.2"),
        ("align.template=arcface", "arcface112"),
        ("run.batch_pixels=0", "run.batch_pixels must be positive, got 0"),
        ("detect.min_face_size_px", "--set wants section.key=value"),
        ("detect.min_face_size_px=[", "not valid YAML"),
    ],
)
def test_a_wrong_setting_names_the_key_and_the_value(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])
    assert message in str(caught.value)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no preset is called 'defalt'; there are .*default"):
        load_config("defalt")


@pytest.mark.parametrize("text", ["- a\n- b\n", "detect: 3\n", "detect: [\n"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(str(file))


def test_the_fingerprint_ignores_what_does_not_change_the_result() -> None:
    base = load_config()
    assert load_config(None, ["run.batch_pixels=1000"]).fingerprint == base.fingerprint
    assert load_config(None, ["detect.min_face_size_px=21"]).fingerprint != base.fingerprint


def test_all_that_differs_is_named() -> None:
    ours, theirs = {"a": {"x": 1, "y": 2}, "b": {"z": "c"}}, {"a": {"x": 1, "y": 3}, "b": {"z": None}}
    assert describe_differences(ours, ours) == ""
    assert describe_differences(ours, theirs) == "a.y is 2 now and was 3 there, b.z is 'c' now and was None there"
