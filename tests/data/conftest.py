"""What several tests of data sets start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sclip_lab.app import data_cli


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are looked for; nothing is there yet."""
    monkeypatch.setenv(data_cli.DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"
