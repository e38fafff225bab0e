"""The presets that come with facemill; free of heavy imports, as `--help` names them."""

from __future__ import annotations

from importlib import resources


def preset_names() -> list[str]:
    """Their names, sorted."""
    folder = resources.files("facemill.configs")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
