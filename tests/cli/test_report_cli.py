"""``sclip-lab report`` and the arguments of ``sclip-lab paper``."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.cli import paper
from sclip_lab.cli.main import main, parser_of
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.errors import LabError
from sclip_lab.report import store_report
from sclip_lab.run import studies
from sclip_lab.run.job import table
from tests.synthetic_store import (
    key_of,
    write_cell,
    write_pictures,
    write_store,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_pictures(root, write_store(root, 12))
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
            config = {"protocol": {"short_side": side}}
            write_cell(tmp_path / "s", label, skill, list("ab"), config=config, seed=side)
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    compared = pd.read_csv(tmp_path / "out/differences.csv")["compared"]
    assert set(compared) == {
        f"csa · short_side {side} against vanilla · short_side {side}" for side in (64, 128)
    }


def test_the_table_of_a_run_leaves_out_what_a_cell_does_not_have(tmp_path: Path) -> None:
    for readout in ({}, {"readout": {"_target_": "a.b.cliper", "scale": 50.0}}):
        config = {"protocol": readout}
        write_cell(tmp_path, "csa", 0.5, list("abc"), config=config, seed=len(readout))
    shown = table(results.load(tmp_path))
    assert "nan" not in shown.lower()
    assert [line.split()[4] for line in shown.splitlines()[1:3]] == ["cosine", "cliper"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--baseline", "csaa"], "did you mean csa"),  # each name once
        (["--where", "atention=csa"], "did you mean attention"),
        (["--where", "attention=csaa"], "did you mean csa"),
        (["--where", "attention"], "COLUMN=PATTERN"),
        # vanilla has no such parameter
        (["--where", "attention.temperature=2"], "did you mean 2.0? (known: 1.0, 2.0, none)"),
        (["--where", "attention.temperature=1.0", "attention=vanilla"], "(known: csa)"),
    ],
)
def test_report_says_what_was_meant(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert main(["report", str(store), "--out", str(tmp_path), *arguments]) == 1
    stderr = capsys.readouterr().err
    assert hint in stderr
    assert "csa or csa" not in stderr


def test_paper_takes_studies_keys_and_points() -> None:
    args = parser_of("paper").parse_intermixed_args(
        ["main", "--out", "x", "dataset=voc21", "--points", "3,4", "5,6"]
    )
    assert args.words == ["main", "dataset=voc21"]
    assert paper.points(args.points) == [(3, 4), (5, 6)]
    with pytest.raises(LabError, match="as 40,60"):
        paper.points(["3"])


def test_paper_takes_all_benchmarks_for_another_network() -> None:
    assert studies.with_data(["seed=1"]) == ["seed=1"]
    assert studies.with_data(["backbone=ViT-B-16", "dataset=ade20k"])[1:] == ["dataset=ade20k"]
    assert "voc21" in studies.with_data(["backbone=ViT-B-16"])[1]


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


def test_paper_knows_how_large_a_data_set_is() -> None:
    assert studies.whole_size("patchwork", 2) == 64
    assert studies.whole_size("voc21", 20) == studies.whole_size("voc21", 1449) == 1449
    assert studies.whole_size("mine", 7) == 7


def test_paper_takes_a_study_of_a_plug_in_and_few_photos_have_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From outside: a module with STUDIES, and a folder with the sweep."""
    (tmp_path / "ideas_for_paper.py").write_text(
        "from sclip_lab.paper.claims import higher\n"
        "from sclip_lab.paper.studies import Study\n"
        "from sclip_lab.report.curves import spec\n"
        "def claims(evidence):\n"
        "    csa, vanilla = (spec(evidence, variant=name) for name in ('csa', 'vanilla'))\n"
        "    return [higher(evidence, csa, vanilla, 'CSA is better')]\n"
        "STUDIES = {'mystudy': Study('Is CSA better?', claims)}\n"
    )
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mystudy.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /hydra/sweeper: union, override /diagnostics: none]\n"
        "pictures: {images: 0}\n"
        "hydra: {sweeper: {grids: [{attention: 'vanilla,csa'}]}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for variable in ("SCLIP_LAB_PLUGINS", "SCLIP_LAB_CONF"):
        monkeypatch.setenv(variable, "")  # and back to what it was
    words = ["mystudy", "plugins=[ideas_for_paper]", "dataset.limit=2", "dataset.height=96",
             "dataset.width=96"]  # fmt: skip
    options = ["--config-dir", str(tmp_path / "conf"), "--out", str(tmp_path / "out")]
    assert main(["paper", *words, *options, "--processes", "1"]) == 0
    assert len(results.specs(tmp_path / "out" / "store")) == 2  # not among the user's own cells
    text = (tmp_path / "out" / "verdicts.md").read_text(encoding="utf-8")
    assert "| mystudy | CSA is better | **no verdict** | cannot be tested here |" in text
    assert "2 of 64 photos; a verdict needs 10" in text
    assert "\n1 claim: 0 tested" in text
    page = html.unescape((tmp_path / "out/index.html").read_text())
    assert shlex.join(["sclip-lab", "paper", *words, *options[:2]]) in page  # as typed
    assert main(["paper", "mystudi", *words[1:], *options]) == 1


def test_random_weights_of_large_networks_are_not_made() -> None:
    conditions = ["backbone=ViT-B-16-quickgelu", "dataset=patchwork"]
    sizes = [
        {
            str(config.backbone.name)
            for config in sweep(["experiment=backbones", *conditions, *more])
        }
        for more in ([], ["pretrained=null"])
    ]
    assert sizes[0] >= {"ViT-L-14-quickgelu", "ViT-H-14", "ViT-B-16-SigLIP"}
    assert sizes[1] == {"ViT-B-32-quickgelu", "ViT-B-16-quickgelu"}


def write_sizes(root: Path, sizes: Mapping[tuple[str, int], Sequence[str]]) -> None:
    """Cells as of sweeps on parts of one data set: (part, photos) -> labels."""
    for (part, count), names in sizes.items():
        images = [f"{number}" for number in range(count)]  # the same names in every part
        for label in names:
            skill = 0.3 if label == "vanilla" else 0.7
            start = 0 if part == "test" else 50
            config = {"dataset": {"digest": key_of(part, count)}}
            write_cell(
                root, label, skill, images, first=start, config=config, seed=hash_of(part, count)
            )


def hash_of(part: str, count: int) -> int:
    return int(key_of(part, count)[:6], 16)


def test_sweeps_on_different_photos_have_sections_of_their_own(tmp_path: Path) -> None:
    sizes = {
        ("test", 4): ["vanilla", "csa"],
        ("test", 6): ["csa", "naclip"],
        ("train", 4): ["vanilla", "csa", "naclip"],
    }
    write_sizes(tmp_path / "s", sizes)
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "s"), "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    names = [f"shapes, 4 photos ({key_of(part, 4)[:6]})" for part in ("test", "train")]
    for name in [*names, "shapes, 6 photos"]:
        assert f"scores: {name}</h2>" in page
    assert "csa · " not in page  # within a section a label is enough
    tables = {path.stem: pd.read_csv(path) for path in out.glob("*.csv")}
    scores = [table for name, table in tables.items() if name.startswith("scores_")]
    assert sorted(len(table) for table in scores) == [2, 2, 3]
    compared = {
        name: sorted(table["compared"]) for name, table in tables.items() if "differences" in name
    }
    assert sorted(compared.values()) == [
        ["csa against vanilla"],
        ["csa against vanilla", "naclip against vanilla"],
    ]
    assert "differences_shapes_6_photos" not in compared  # no vanilla among them


def test_differences_pair_cells_of_the_same_photos_alone(tmp_path: Path) -> None:
    sizes = {("test", 4): ["vanilla", "csa"], ("test", 6): ["csa"], ("train", 4): ["vanilla"]}
    write_sizes(tmp_path, sizes)
    df = results.load(tmp_path)
    compared = results.differences(df, n=50)
    assert len(compared) == 1
    assert len(compared.attrs["left_out"]) == 1
    alone = results.difference(df[df["spec"].isin(compared[["spec_a", "spec_b"]].iloc[0])],
                               "csa", "vanilla", n=50)  # fmt: skip
    assert compared["difference"].iloc[0] == alone["difference"].iloc[0]
    assert results.difference(df, "csa", "vanilla", n=50)["images"].to_list() == [4]
    test, train = (
        s for s in df["spec"].unique() if (df.loc[df["spec"] == s, "attention"] == "vanilla").all()
    )
    with pytest.raises(LabError, match="not evaluated on the same photos"):
        results.difference(df, test, train, n=50)  # image names alone are equal


def test_a_baseline_that_one_part_lacks_keeps_the_page(tmp_path: Path) -> None:
    write_sizes(tmp_path / "s", {("test", 4): ["naclip", "csa"], ("test", 6): ["vanilla", "csa"]})
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "s"), "--baseline", "naclip", "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "differences to naclip: shapes, 4 photos</h2>" in page
    assert len(list(out.glob("differences*.csv"))) == 1


def test_the_table_of_a_sweep_over_sizes_says_how_many_photos(tmp_path: Path) -> None:
    write_sizes(tmp_path, {("test", 4): ["csa"], ("test", 6): ["csa"]})
    head, *rows = table(results.load(tmp_path)).splitlines()
    assert head.endswith("images")
    assert sorted(row.split()[-1] for row in rows) == ["4", "6"]


def test_a_page_says_what_it_is_of_and_its_files_hold_numbers(store: Path, tmp_path: Path) -> None:
    assert main(["report", str(store), "--where", "dataset=shapes", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "<h1>Results on shapes with tiny</h1>" in page
    assert f"sclip-lab report {store} --where dataset=shapes" in page
    assert "network: tiny, random weights" in page
    assert "protocol: sclip" in page
    assert 'class="lead">csa scores' in page
    assert "next steps</h2>" in page
    assert "published" not in page  # nobody has published numbers of these photos
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert list(scores) == ["variant", "mIoU x100", "low x100", "high x100"]
    summary = results.summary(results.load(store))
    np.testing.assert_allclose(scores["mIoU x100"], 100 * summary["miou"], atol=1e-5)
    np.testing.assert_allclose(scores["high x100"], 100 * summary["high"], atol=1e-5)
    assert "\\label{tab:scores}" in (tmp_path / "scores.tex").read_text()


def test_the_command_on_clip_names_no_variant_that_only_a_plug_in_has(tmp_path: Path) -> None:
    for label in ("csa", "heated", "vanilla"):
        write_cell(tmp_path / "s", label, 0.5, list("abc"), names={"backbone": "patchwork_vit"})
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/index.html").read_text()
    assert "evaluate -m attention=csa,vanilla dataset=voc21" in page


def test_intervals_and_p_of_a_table_agree(store: Path, tmp_path: Path) -> None:
    assert main(["report", str(store), "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "differences.csv")
    excludes = (table["low x100"] > 0) | (table["high x100"] < 0)
    assert (excludes == (table["p"] < 0.05)).all()
    alone = results.differences(results.load(store))
    np.testing.assert_allclose(table["p"], np.minimum(1, len(alone) * alone["p"]))
    np.testing.assert_allclose(table["difference x100"], 100 * alone["difference"], atol=1e-5)


def test_the_result_is_one_sentence(tmp_path: Path) -> None:
    images = [f"photo_{k}" for k in range(12)]
    for label, skill in (("vanilla", 0.35), ("csa", 0.75), ("csa_q", 0.74), ("maskclip", 0.4)):
        write_cell(tmp_path, label, skill, images, shape=(48, 64), created=label)
    whole = store_report.read(tmp_path)
    summary = whole.summary.set_index(whole.summary["attention"].astype(str))
    first, second = summary["miou"].sort_values().index[[-1, -2]]
    assert {first, second} == {"csa", "csa_q"}
    assert summary["unbeaten"].to_dict() == {
        name: name in (first, second) for name in summary.index
    }
    text = store_report.result(whole)
    row = 100 * summary.loc[first, ["miou", "low", "high"]].astype(float)
    interval = f"[{row['low']:.1f}, {row['high']:.1f}]"
    assert text == (
        f"{first} scores {row['miou']:.1f} mIoU x100 {interval} on 12 photos of shapes, surely "
        f"more than 2 of 3 others; not surely below it: {second}."
    )
    apart = whole.of([str(summary.loc[name, "spec"]) for name in (first, "vanilla")])
    assert store_report.result(apart).endswith("of shapes, surely more than the other.")
    alone = whole.of([str(summary.loc[first, "spec"])])
    assert store_report.result(alone).endswith("on 12 photos of shapes.")


def test_seeds_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    images = list("abcdefghijkl")
    for seed in range(3):
        for label, skill in (("random", 0.5 + seed / 20), ("vanilla", 0.3)):
            if label == "vanilla" and seed:
                continue
            name = f"{label}(seed={seed})" if label == "random" else label
            config = {"attention": {"seed": seed}} if label == "random" else {}
            write_cell(tmp_path / "s", name, skill, images, config=config, seed=seed)
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    (row,) = pd.read_csv(tmp_path / "out/seeds.csv").to_dict("records")
    df = results.load(tmp_path / "s")
    scores = 100 * results.miou(df[df["attention"] != "vanilla"])
    assert row["variant"] == "random"
    assert row["seeds"] == 3
    assert row["mIoU x100"] == pytest.approx(scores.mean(), abs=1e-5)
    assert row["sd over seeds x100"] == pytest.approx(scores.std(ddof=1), abs=1e-5)
    assert row["low x100"] < row["mIoU x100"] < row["high x100"]


def test_cells_of_changed_code_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that has a name differs: the page says why there are two, and which is newer."""
    days = ("2026-01-02T10:00:00", "2026-01-01T09:00:00")
    newer, older = (
        write_cell(tmp_path, "mine", 0.5, ["x"], seed=n, created=day) for n, day in enumerate(days)
    )
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/index.html").read_text()
    first, second = (f"mine · {key[:6]} (of {day})" for key, day in (
        (older, "2026-01-01 09:00"), (newer, "2026-01-02 10:00")))  # fmt: skip
    assert f"{first}, {second}; --where key={newer[:12]}* chooses one" in page
    assert main(["store", "list", str(tmp_path)]) == 0
    assert "2026-01-02 10:00" in capsys.readouterr().out
