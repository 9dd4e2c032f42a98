"""A store remembers every name of a cell, and which sweep asked for it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from sclip_lab.report import store_report
from sclip_lab.results.store import spec_files, sweeps
from tests.synthetic_store import write_cell, write_store


def names(**changed: str) -> dict[str, str]:
    usual = {"attention": "csa", "backbone": "tiny", "dataset": "shapes", "protocol": "sclip"}
    return usual | changed


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Vanilla, csa, csa(temperature=2.0) and identity; csa is also asked for under naclip."""
    keys = write_store(tmp_path)
    other = names(protocol="naclip")
    spec_files.add_names(tmp_path / "specs" / keys[1], other)
    vanilla = names(attention="vanilla")
    sweeps.note(tmp_path, "first", "sclip-lab evaluate a", {keys[0]: vanilla, keys[1]: names()})
    sweeps.note(tmp_path, "other", "sclip-lab evaluate b", {keys[0]: vanilla, keys[1]: other})
    return tmp_path


def test_a_cell_keeps_all_its_names(store: Path) -> None:
    df = results.load(store)
    csa = str(df.loc[df["attention"] == "csa", "spec"].iloc[0])
    assert df.attrs["also"] == {csa: ["protocol naclip"]}
    (record,) = results.records(store, [csa])
    assert record["also"] == [names(protocol="naclip")]
    again = results.load(store, [csa], names={record["key"]: names(protocol="naclip")})
    assert set(again["protocol"]) == {"naclip"}
    assert again.attrs["also"] == {csa: ["protocol sclip"]}


@pytest.mark.parametrize("protocol", ["sclip", "naclip"])
def test_a_cell_is_selected_by_any_of_its_names(store: Path, protocol: str) -> None:
    part = store_report.read(store, {"protocol": [protocol], "attention": ["csa"]})
    assert set(part.df["protocol"].astype(str)) == {protocol}
    assert part.df["spec"].nunique() == 1


def test_a_sweep_is_reported_under_its_names(store: Path, tmp_path: Path) -> None:
    for sweep, protocol in (("first", "sclip"), ("other", "naclip"), ("last", "naclip")):
        part = store_report.read(store, sweep=sweep)
        assert part.df["spec"].nunique() == 2
        csa = part.df[part.df["attention"] == "csa"]
        assert set(csa["protocol"].astype(str)) == {protocol}
    out = tmp_path / "out"
    assert main(["report", str(store), "--sweep", "last", "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "sweep: sclip-lab evaluate b" in page
    assert list(pd.read_csv(out / "scores.csv")["also"].dropna()) == ["protocol sclip"]
    with pytest.raises(LabError, match="did you mean first"):
        store_report.read(store, sweep="firsst")


def test_sweeps_are_listed_with_what_is_finished(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write_cell(store, "gem", 0.5, ["a", "b"], photos=1, seed=9)  # one of two images
    sweeps.note(store, "interrupted", "sclip-lab evaluate c", {key: names(attention="gem")})
    assert main(["store", "sweeps", "--store", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["first", "other", "interrupted"]
    lines_about = [line for line in lines if "interrupted" in line]
    assert lines_about[0].split()[-5:] == ["1", "0", "sclip-lab", "evaluate", "c"]


def test_a_command_typed_again_is_the_same_sweep(tmp_path: Path) -> None:
    first = sweeps.note(tmp_path, "a", "x", {"k": names()})
    before = sweeps.read(tmp_path)[first]
    assert sweeps.note(tmp_path, "a", "x again", {"k": names()}) == first
    after = sweeps.read(tmp_path)[first]
    assert after["first"] == before["first"]
    assert after["last"] > before["last"]
    assert sweeps.note(tmp_path, "a", "x", {"k": names(protocol="naclip")}) != first
    (tmp_path / "sweeps" / f"{first}.json").write_text("{}")
    assert first not in sweeps.read(tmp_path)  # damaged: it changes no number


def test_a_name_goes_before_the_beginning_of_an_id(tmp_path: Path) -> None:
    first = sweeps.note(tmp_path, "a", "x", {"k": names()})
    sweeps.note(tmp_path, first[:2], "y", {"k": names()})
    assert sweeps.find(tmp_path, first[:2])["command"] == "y"


def test_many_unfinished_cells_are_one_short_line(tmp_path: Path) -> None:
    write_store(tmp_path)
    for number in range(40):
        write_cell(tmp_path, f"v(temperature={number})", 0.5, ["a", "b"], photos=1, seed=number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results.load(tmp_path)
    (warning,) = caught
    assert "and 37 more" in str(warning.message)
    assert len(str(warning.message)) < 400


def test_equal_cells_of_two_protocols_keep_both_names(tmp_path: Path) -> None:
    data = lab.load_dataset("patchwork", limit=1)
    specs: list[Any] = [
        lab.Spec("csa", protocol=name, dataset=data) for name in ("sclip", "naclip")
    ]
    assert specs[0].key == specs[1].key
    df = lab.evaluate(specs, tmp_path, progress=False)
    assert set(df["protocol"].astype(str)) == {"sclip"}  # the first one's
    assert list(df.attrs["also"].values()) == [["protocol naclip"]]
    df = lab.evaluate(specs[1], tmp_path, progress=False)
    assert set(df["protocol"].astype(str)) == {"naclip"}  # what was asked for now
    assert set(results.load(tmp_path)["protocol"].astype(str)) == {"sclip"}
