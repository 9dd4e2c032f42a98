"""``sclip-lab report`` and the arguments of ``sclip-lab paper``."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.cli import paper
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from sclip_lab.run.job import table
from tests.synthetic_store import confusion_rows, labels, write_panels, write_spec, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_panels(root, write_store(root))
    return root


def test_report_draws_a_selection(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    where = ["--where", "attention=csa*,vanilla", "dataset=shapes"]
    assert main(["report", str(store), *where, "--baseline", "vanilla", "--out", str(out)]) == 0
    scores = (out / "scores.csv").read_text(encoding="utf-8")
    assert "csa(temperature=2.0)" in scores
    assert "identity" not in scores
    names = {path.name for path in out.iterdir()}
    assert {"index.html", "bars.pdf", "panel.png", "attention.png", "differences.tex"} <= names
    assert "curve_attention.temperature.png" in names


def test_differences_say_what_else_varies(tmp_path: Path) -> None:
    for side in (64, 128):
        for label, skill in (("vanilla", 0.3), ("csa", 0.7)):
            rows = [confusion_rows(n, *labels(i, skill, (24, 32), 5)) for i, n in enumerate("ab")]
            config = {"protocol": {"short_side": side}}
            write_spec(tmp_path / "s", label, rows, list("ab"), config=config, seed=side)
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    compared = pd.read_csv(tmp_path / "out/differences.csv")["compared"]
    assert set(compared) == {
        f"csa · short_side {side} against vanilla · short_side {side}" for side in (64, 128)
    }


def test_the_table_of_a_run_leaves_out_what_a_cell_does_not_have(tmp_path: Path) -> None:
    for readout in ({}, {"readout": {"_target_": "a.b.cliper", "scale": 50.0}}):
        rows = [confusion_rows(n, *labels(i, 0.5, (24, 32), 5)) for i, n in enumerate("abc")]
        config = {"protocol": readout}
        write_spec(tmp_path, "csa", rows, list("abc"), config=config, seed=len(readout))
    assert "nan" not in table(results.load(tmp_path)).lower()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--baseline", "csaa"], "did you mean csa"),  # each name once
        (["--where", "atention=csa"], "did you mean attention"),
        (["--where", "attention=csaa"], "did you mean csa"),
        (["--where", "attention"], "COLUMN=PATTERN"),
    ],
)
def test_report_says_what_was_meant(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert main(["report", str(store), "--out", str(tmp_path), *arguments]) == 1
    said = capsys.readouterr().err
    assert hint in said
    assert "csa or csa" not in said


def test_paper_takes_studies_keys_and_points() -> None:
    args = paper.parser().parse_intermixed_args(
        ["main", "--out", "x", "dataset=voc21", "--points", "3,4", "5,6"]
    )
    assert args.words == ["main", "dataset=voc21"]
    assert paper.points(args.points) == [(3, 4), (5, 6)]
    with pytest.raises(LabError, match="as 40,60"):
        paper.points(["3"])


def test_paper_takes_all_benchmarks_for_another_network() -> None:
    assert paper.with_data(["seed=1"]) == ["seed=1"]
    assert paper.with_data(["backbone=ViT-B-16", "dataset=ade20k"])[1:] == ["dataset=ade20k"]
    assert "voc21" in paper.with_data(["backbone=ViT-B-16"])[1]


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_several_processes_compose_the_same_cells() -> None:
    asked = ["attention", "qualitative"], ["dataset.limit=2"]
    one, two = paper.cells_of_all(*asked), paper.cells_of_all(*asked, processes=2)
    assert {name: [spec.key for spec in cells.specs] for name, cells in one.items()} == {
        name: [spec.key for spec in cells.specs] for name, cells in two.items()
    }
    assert [len(cells.specs) for cells in two.values()] == [2, 4]


def test_paper_says_how_to_get_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dataset=ade20k", f"paths.data={tmp_path}", f"paths.store={tmp_path / 'store'}"]
    assert main(["paper", "main", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert "ADEChallengeData2016.zip" in capsys.readouterr().err


def test_paper_names_missing_weights_before_one_of_many_data_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "weights.pt"
    arguments = ["dataset=ade20k,patchwork", f"paths.data={tmp_path}",
                 f"backbone.checkpoint={missing}"]  # fmt: skip
    assert main(["paper", "attention", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert str(missing) in capsys.readouterr().err


def test_random_weights_of_large_networks_are_not_made() -> None:
    asked = ["backbone=ViT-B-16-quickgelu", "dataset=patchwork"]
    sizes = [
        {str(config.backbone.name) for config in paper.jobs("backbones", [*asked, *more])}
        for more in ([], ["pretrained=null"])
    ]
    assert sizes[0] >= {"ViT-L-14-quickgelu", "ViT-H-14", "ViT-B-16-SigLIP"}
    assert sizes[1] == {"ViT-B-32-quickgelu", "ViT-B-16-quickgelu"}
