"""Where the yaml files are, and which there are. Nothing heavy is imported for it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The directory of yaml files: beside the package in a checkout, inside it in a wheel."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def names(group: str) -> list[str]:
    """The choices of a config group; files that start with an underscore are shared parts."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml") if p.stem[0] != "_")
