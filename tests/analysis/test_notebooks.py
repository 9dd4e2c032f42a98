"""Notebooks run from top to bottom on a small store."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest

from tests.synthetic_store import write_panels, write_store

NOTEBOOKS = sorted((Path(__file__).parents[2] / "analysis" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    write_panels(tmp_path, write_store(tmp_path))
    monkeypatch.setenv("SCLIP_LAB_STORE", str(tmp_path))
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(cells) > 3
    namespace: dict[str, object] = {}
    for number, cell in enumerate(cells):
        assert not cell["outputs"], f"cell {number} was saved with its output"
        exec(compile("".join(cell["source"]), f"{path.name} cell {number}", "exec"), namespace)
