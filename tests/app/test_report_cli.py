"""``sclip-lab report`` and the arguments of ``sclip-lab paper``."""

from __future__ import annotations

from pathlib import Path

import pytest

from sclip_lab.app import paper_cli
from sclip_lab.app.cli import main
from sclip_lab.errors import LabError
from tests.synthetic_store import write_panels, write_store


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


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--baseline", "csaa"], "did you mean csa"),
        (["--where", "atention=csa"], "did you mean attention"),
        (["--where", "attention=csaa"], "did you mean csa"),
        (["--where", "attention"], "COLUMN=PATTERN"),
    ],
)
def test_report_says_what_was_meant(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert main(["report", str(store), "--out", str(tmp_path), *arguments]) == 1
    assert hint in capsys.readouterr().err


def test_paper_takes_studies_keys_and_points() -> None:
    args = paper_cli.parser().parse_intermixed_args(
        ["main", "--out", "x", "dataset=voc21", "--points", "3,4", "5,6"]
    )
    assert args.words == ["main", "dataset=voc21"]
    assert paper_cli.points(args.points) == [(3, 4), (5, 6)]
    with pytest.raises(LabError, match="as 40,60"):
        paper_cli.points(["3"])


def test_paper_takes_all_benchmarks_for_another_network() -> None:
    assert paper_cli.with_data(["seed=1"]) == ["seed=1"]
    assert paper_cli.with_data(["backbone=ViT-B-16", "dataset=ade20k"])[1:] == ["dataset=ade20k"]
    assert "voc21" in paper_cli.with_data(["backbone=ViT-B-16"])[1]


def test_paper_says_how_to_get_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dataset=ade20k", f"paths.data={tmp_path}", f"paths.store={tmp_path / 'store'}"]
    assert main(["paper", "main", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert "ADEChallengeData2016.zip" in capsys.readouterr().err
