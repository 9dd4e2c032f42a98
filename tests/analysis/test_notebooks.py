"""Notebooks run as Jupyter runs them: each in a kernel of its own, from its own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pandas as pd
import pytest

import sclip_lab as lab
from sclip_lab.data.folder import Folder
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.protocol import Protocol

FOLDER = Path(__file__).parents[2] / "analysis" / "notebooks"
# How many pictures each shows: figures, and pages such as the explorer's.
PICTURES = {
    "1_start_here": 2,
    "2_analyse_a_sweep": 4,
    "3_is_the_difference_real": 1,
    "4_look_into_attention": 3,
    "5_your_own_variant": 1,
    "6_the_papers_figures": 2,
}
QUICK = ("1_start_here", "2_analyse_a_sweep")


def executed(cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """A notebook of these cells, run in a new kernel."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(FOLDER)}}
    return nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()


def shown(notebook: nbformat.NotebookNode) -> list[dict[str, str]]:
    """What the cells show, by type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"] for output in outputs if "data" in output]


def test_every_notebook_is_counted() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(PICTURES)
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pair_is_in_step(name: str) -> None:
    """`make notebooks` has run since the script changed, and no output was committed."""
    script = jupytext.read(FOLDER / f"{name}.py")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    both = ([(c.cell_type, c.source) for c in pair.cells] for pair in (script, notebook))
    assert next(both) == next(both)
    assert not any(c.get("outputs") for c in notebook.cells)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PICTURES],
)
def test_runs_and_shows_its_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow ones take half a minute to two minutes each."""
    monkeypatch.delenv("SCLIP_LAB_STORE", raising=False)
    outputs = shown(executed(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells))
    pictures = [d for d in outputs if "image/png" in d or "<iframe" in d.get("text/html", "")]
    assert len(pictures) == PICTURES[name]


def test_a_reloaded_function_gives_new_numbers(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the new code, as a store that never saw the old code has them; then the old ones."""
    file = tmp_path / "my_idea.py"
    code = "def mine(ctx):\n    return ctx.attention('{0}', '{0}', 0.1)\n"
    file.write_text(code.format("key"))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_idea")

    def counts(store: str) -> pd.DataFrame:
        spec = lab.Spec(lab.variant(module.mine), backbone, protocol, photos)
        df = lab.evaluate([spec], tmp_path / store, progress=False)
        return df[["image", "true", "predicted", "pixels"]]

    first = counts("one")
    file.write_text(code.format("query"))
    importlib.reload(module)
    second = counts("one")
    assert not second.equals(first)
    pd.testing.assert_frame_equal(second, counts("another"))
    file.write_text(code.format("key"))
    importlib.reload(module)
    pd.testing.assert_frame_equal(counts("one"), first)
    del sys.modules["my_idea"]
