"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("facemill", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("facemill")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images with ground truth, kept outside of the project."""
    path = Path(os.environ.get("FACEMILL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"needs the evaluation images in {path} (set FACEMILL_SHARED_DATA), which are not redistributable")
    return path
