"""A multirun: computed at once, and every job still a Hydra job of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from sclip_lab import results
from sclip_lab.evaluation import recorder
from sclip_lab.network.backbone import Backbone
from tests.running import break_photo, evaluate, fail, succeed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    outcome = succeed(folder, "-m", "attention=vanilla,csa", "attention.temperature=1.0,2.0")
    assert "csa(temperature=2.0)" in outcome.out  # the table
    return folder


def test_every_job_has_its_own_folder(sweep: Path) -> None:
    assert sorted(p.name for p in (sweep / "sweep").iterdir() if p.is_dir()) == list("0123")
    labels = []
    for number in range(4):
        job = sweep / "sweep" / str(number)
        overrides = yaml.safe_load((job / ".hydra/overrides.yaml").read_text())
        assert "dataset.limit=2" in overrides
        config = yaml.safe_load((job / ".hydra/config.yaml").read_text())
        hydra = yaml.safe_load((job / ".hydra/hydra.yaml").read_text())["hydra"]
        assert hydra["job"]["num"] == number
        outcome = json.loads((job / "result.json").read_text())
        labels.append(outcome["label"])
        assert f"temperature={config['attention']['temperature']}" in outcome["label"] or (
            config["attention"]["temperature"] == 1.0
        )
        log = (job / "evaluate.log").read_text()
        assert outcome["label"] in log
        assert "mIoU" in log
    assert labels == [
        "vanilla", "vanilla(temperature=2.0)", "csa", "csa(temperature=2.0)"
    ]  # fmt: skip


def test_result_is_what_the_store_says(sweep: Path) -> None:
    df = results.load(sweep / "store")
    miou = results.miou(df)
    for number in range(4):
        text = (sweep / "sweep" / str(number) / "result.json").read_text()
        outcome = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
        assert outcome["miou"] == pytest.approx(miou[outcome["key"][:12]], abs=0)
        absent = [name for name, value in outcome["iou"].items() if value is None]
        assert len(absent) == results.iou(df).groupby("spec")["iou"].apply(
            lambda iou: int(iou.isna().sum())
        ).loc[outcome["key"][:12]]  # fmt: skip
        assert outcome["low"] is outcome["high"] is None  # fewer than ten photos have none
        assert set(outcome["iou"]) == set(df.attrs["class_names"]["patchwork"])


def test_one_pass_and_none_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    embed = Backbone.embed

    def counting(self: Backbone, *args: object) -> object:
        calls.append(1)
        return embed(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "embed", counting)
    overrides = ("-m", "attention=vanilla,csa")
    outcome = succeed(tmp_path, *overrides)
    assert len(calls) == 2  # photos, not photos times variants
    assert outcome.out.count(" ms") == 1  # one line says where the time went
    first = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("sweep/*/result.json"))]
    assert evaluate(tmp_path, *overrides).code == 0
    assert len(calls) == 2
    assert first == [
        json.loads(p.read_text()) for p in sorted(tmp_path.glob("sweep/*/result.json"))
    ]


def test_a_sweep_says_what_this_run_runs(tmp_path: Path) -> None:
    """Its blocks are those of missing cells; rows and job lines are in the order typed."""
    assert evaluate(tmp_path, "-m", "attention=vanilla,csa").code == 0
    out = evaluate(tmp_path, "-m", "attention=naclip,csa,vanilla", "seed=0").out
    assert "1 variant to run: 8 blocks per photo" in out
    assert "2 of 3 cells were in the store" in out
    rows = [line.split()[0] for line in out.splitlines() if "patchwork_vit patchwork" in line]
    assert rows == ["naclip", "csa", "vanilla"]
    jobs = re.findall(r"#(\d) : (.*)", out)
    assert jobs == [("0", "attention=naclip"), ("1", "attention=csa"), ("2", "attention=vanilla")]


def test_a_bad_job_does_not_stop_the_others(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "-m", "attention=csa", "attention.layers=[-1],[99],[-2]")
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "99" in errors[0]
    assert "attention 'csa'" in errors[0]
    stored = sorted(p.parent.name for p in tmp_path.glob("sweep/*/result.json"))
    assert stored == ["0", "2"]
    assert results.load(tmp_path / "store")["spec"].nunique() == 2
    assert "99" in (tmp_path / "sweep/1/evaluate.log").read_text()


def test_jobs_fail_without_another_try_when_the_pass_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_photo(monkeypatch, 1)
    monkeypatch.setattr(recorder, "FLUSH_IMAGES", 1)
    outcome = fail(tmp_path, "-m", "attention=vanilla,csa")
    error = "data set patchwork, image test_000001: photo 1 is damaged"
    assert f"error: 2 of 2 jobs failed: 2 x {error}" in outcome.err
    assert outcome.out.count(error) == 1  # where the pass stopped
    for number in "01":
        assert f"error: {error}" in (tmp_path / f"sweep/{number}/evaluate.log").read_text()
    assert results.load(tmp_path / "store", partial=True)["image"].nunique() == 1


def test_one_bad_value_fails_alone(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "-m", "attention=vanilla", "attention.temperature=0.5,hot,-1,2.0")
    assert "hot" in outcome.out
    stored = sorted(p.parent.name for p in tmp_path.glob("sweep/*/result.json"))
    assert stored == ["0", "3"]
    outcomes = [json.loads((tmp_path / f"sweep/{n}/result.json").read_text()) for n in stored]
    table = results.load(tmp_path / "store", [outcome["key"] for outcome in outcomes])
    assert table.groupby("attention", observed=True)["image"].nunique().tolist() == [2, 2]
    assert "temperature" in (tmp_path / "sweep/2/evaluate.log").read_text()


def test_skipped_photos_stand_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_photo(monkeypatch, 1)
    outcome = succeed(tmp_path, "-m", "attention=vanilla,csa", "on_error=skip")
    assert "1 of 2" in outcome.out
    assert "skipped by csa: test_000001" in outcome.out
    for number in "01":
        outcomes = json.loads((tmp_path / f"sweep/{number}/result.json").read_text())
        assert (outcomes["images"], outcomes["of"]) == (1, 2)
        assert "damaged" in outcomes["skipped"]["test_000001"]
        assert "over 1 of 2 images" in (tmp_path / f"sweep/{number}/evaluate.log").read_text()


def test_a_part_of_the_data_says_so(tmp_path: Path) -> None:
    outcome = succeed(tmp_path, "-m", "attention=csa", "shard=[0,2]")
    assert "1 of 2" in outcome.out
    outcomes = json.loads((tmp_path / "sweep/0/result.json").read_text())
    assert (outcomes["images"], outcomes["of"], outcomes["skipped"]) == (1, 2, {})


def test_single_run(tmp_path: Path) -> None:
    succeed(tmp_path, "attention=csa")
    assert json.loads((tmp_path / "run/result.json").read_text())["label"] == "csa"
    assert (tmp_path / "run/.hydra/config.yaml").is_file()
    assert "mIoU" in (tmp_path / "run/evaluate.log").read_text()


def test_single_run_with_a_bad_value_is_one_line(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "attention=csa", "attention.layers=[99]")
    [line] = outcome.err.splitlines()
    assert line.startswith("error: attention 'csa'")


def test_unknown_variant_names_the_nearest(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "attention=cssa")
    assert "did you mean csa" in outcome.err
    assert "csa_random" in outcome.err
