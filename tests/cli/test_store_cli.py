"""``sclip-lab store`` on a store that is damaged by hand."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from tests.synthetic_store import write_store


def store(*arguments: object) -> int:
    return main(["store", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_store(tmp_path / "store")
    return tmp_path / "store"


def test_a_store_without_a_log_of_sweeps(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store("sweeps", root) == 1
    assert "has no log of sweeps" in capsys.readouterr().err


def test_damage_is_found_and_set_aside(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results.load(root)
    assert store("verify", "--store", root) == 0
    assert capsys.readouterr().out.endswith("0 damaged, 0 lost, 0 orphan, 0 set aside\n")

    first, second = sorted((root / "specs").iterdir())[:2]
    shutil.copy(next(first.glob("rows-*")), second)  # a sound file in the wrong cell
    assert store("verify", "--store", root) == 1
    assert "is not what was written here" in capsys.readouterr().out
    assert store("repair", "--store", root) == 0
    assert store("verify", "--store", root) == 0
    assert "1 set aside" in capsys.readouterr().out
    pd.testing.assert_frame_equal(results.load(root), before)


def test_one_damaged_spec_does_not_stop_the_others(root: Path) -> None:
    victim = results.specs(root)["key"][1]
    path = root / "specs" / victim / "spec.json"
    path.write_text(path.read_text()[:-9])
    with pytest.warns(UserWarning, match=rf"damaged: .*{victim}"):
        df = results.load(root)
    assert df["spec"].nunique() == 3
    assert len(results.load(root, [df["spec"].iloc[0]]))


def test_gc_deletes_what_is_lost(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, young = root / "text" / ".old.tmp", root / "text" / ".young.tmp"
    old.parent.mkdir()
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (0, 0))
    assert store("gc", "--store", root, "--dry-run") == 0
    assert old.exists()
    assert store("gc", "--store", root) == 0
    assert "1 lost" in capsys.readouterr().out
    assert not old.exists()
    assert young.exists()


def test_list_and_export(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store("list", "--store", root) == 0
    assert capsys.readouterr().out.count("\n") == 5
    key = results.specs(root)["key"][1]
    assert store("export", key[:12], "--store", root, "--to", tmp_path / "out" / "some") == 0
    table = pd.read_parquet(tmp_path / "out" / "some.parquet")
    assert set(table["spec"]) == {key[:12]}
    assert table["pixels"].sum() == results.load(root, [key])["pixels"].sum()
    about = json.loads((tmp_path / "out" / "some.json").read_text())
    assert [cell["key"] for cell in about["cells"]] == [key]
    for end in ("parquet", "json"):  # by another lab, without the store
        exported = results.load(tmp_path / "out" / f"some.{end}")
        original = results.load(root, [key])
        pd.testing.assert_frame_equal(exported, original)
        pd.testing.assert_frame_equal(results.summary(exported), results.summary(original))
        assert exported.attrs["class_names"] == original.attrs["class_names"]
    assert store("list", "--store", tmp_path / "none") == 1
    assert "no results in" in capsys.readouterr().err


def test_an_export_that_is_not_what_was_written(root: Path, tmp_path: Path) -> None:
    assert store("export", "--store", root, "--to", tmp_path / "all") == 0
    assert (
        store("export", results.specs(root)["key"][1], "--store", root, "--to", tmp_path / "one")
        == 0
    )
    table, about = tmp_path / "all.parquet", tmp_path / "all.json"
    whole = about.read_text()
    about.write_text(whole.replace("vanilla", "vanille"))
    with pytest.raises(LabError, match=r"all\.json is not what was written"):
        results.load(table)
    about.write_text(whole)
    (tmp_path / "one.parquet").replace(table)
    with pytest.raises(LabError, match=r"all\.parquet is not the table that all\.json"):
        results.load(table)
    table.unlink()
    with pytest.raises(LabError, match=r"two files: .*all\.parquet is missing"):
        results.load(about)
