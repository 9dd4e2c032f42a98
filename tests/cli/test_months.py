"""The second week and the sixth: one store, one page, nothing mixed."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from tests import months


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("months")
    months.write(root)
    return root


def test_the_whole_store_is_a_page_of_sections(
    store: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert main(["report", str(store), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    titles = re.findall(r"scores: (.*)</h2>", page)
    sets = [f"shapes, {split}, {count} photos" for split, count in months.SIZES]
    assert sorted(titles) == sorted(sets)
    assert len(re.findall('class="lead"', page)) == 4
    (left_out,) = [str(w.message) for w in recwarn.list if "unfinished" in str(w.message)]
    assert "and 2 more" in left_out
    assert len(left_out) < 400
    for split, count in months.SIZES:
        table = pd.read_csv(tmp_path / f"scores_shapes_{split}_{count}_photos.csv")
        assert table["variant"].is_unique
        assert not table["variant"].str.contains(r" · [0-9a-f]{6}").any()
    sixteen = pd.read_csv(tmp_path / "scores_shapes_test_16_photos.csv").set_index("variant")
    assert set(sixteen.loc["csa", "also"].split("; ")) == {"protocol naclip", "backbone my_tiny"}
    assert not (tmp_path / "differences_shapes_train_16_photos.csv").exists()


def test_sweeps_are_listed_and_reported(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "sweeps", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 12
    assert any(re.search(r"interrupted .* 5 +0 ", line) for line in lines)
    assert main(["store", "list", str(store)]) == 0
    cells = capsys.readouterr().out.splitlines()
    assert any(re.search(r" csa .* train +first 16 ", line) for line in cells)
    assert any("backbone my_tiny; protocol naclip" in line for line in cells)
    assert main(["report", str(store), "--sweep", "checkpoint", "--out", str(tmp_path)]) == 0
    assert "Results on shapes with my_tiny" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("where", "cells"),
    [
        (["dataset.split=train"], 3),
        (["dataset.split=test", "dataset.selection=first 16"], 6),
        (["protocol=naclip"], 2),
        (["backbone=my_tiny"], 1),
    ],
)
def test_any_name_and_part_can_be_selected(
    store: Path, tmp_path: Path, where: list[str], cells: int
) -> None:
    assert main(["report", str(store), "--where", *where, "--out", str(tmp_path)]) == 0
    (scores,) = tmp_path.glob("scores*.csv")
    assert len(pd.read_csv(scores)) == cells


def test_choose_on_train_report_on_test_in_python(store: Path) -> None:
    df = results.load(store)
    pairs = results.differences(df, "csa", n=50)
    for _, pair in pairs.iterrows():
        one, two = (
            set(df.loc[df["spec"] == pair[side], "image"].astype(str))
            for side in ("spec_a", "spec_b")
        )
        assert one == two
    train = df[df["dataset.split"] == "train"]
    assert len(results.miou(train)) == 3
    specs = df.loc[df["attention"] == "csa", "spec"].unique()
    with pytest.raises(LabError, match="not evaluated on the same photos"):
        results.difference(df, str(specs[0]), str(specs[1]), n=20)
