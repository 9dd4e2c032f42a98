"""What several tests of data sets start from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sclip_lab.cli.data import DATA_VARIABLE
from sclip_lab.data import digests


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--data`` sets ends with the test."""
    monkeypatch.setenv(DATA_VARIABLE, os.environ.get(DATA_VARIABLE, "data"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests of files are remembered."""
    monkeypatch.setenv(digests.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are looked for; nothing is there yet. Contact sheets go beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"
