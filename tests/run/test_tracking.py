"""What was logged offline, read back from the file that `wandb sync` would send."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.run.tracking import _id, check, finish, keys, log_run, log_sweep, per_image, sweep_id
from sclip_lab.segmentation.protocol import Protocol

OUTCOME: dict[str, Any] = {
    "key": "0123456789ab",
    "miou": 0.25,
    "low": 0.2,
    "high": 0.3,
    "pixel_accuracy": 0.5,
    "iou": {"sky": 0.5, "grass": 0.125, "dog": 0.25, "cat": 0.0, "wall": float("nan")},
    "diagnostics": {"attention_entropy": 0.75},
}


@pytest.fixture
def spec(backbone: Backbone, photos: Folder, protocol: Protocol) -> Spec:
    return Spec(lab.load_attention("csa", temperature=2.0), backbone, protocol, photos, "csa(2)")


@pytest.fixture
def store(spec: Spec, tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    evaluate([spec], store, observers=[Pictures(1, 1)], progress=False)
    return store


def settings(mode: str) -> DictConfig:
    return OmegaConf.create(
        {"mode": mode, "project": "trial", "entity": None, "group": None, "images": 1}
    )


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes.

    Blocks of 32 KiB hold chunks of checksum (4 bytes), length (2), kind (1) and data; a record
    is one chunk of kind 1, or chunks of the kinds 2, 3, ..., 4.
    """
    content, at, record = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_back(directory: Path) -> dict[str, Any]:
    """Run, config, summary and history of an offline run, from its .wandb file. W&B's own process
    may still be writing it when the run has ended here."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = directory.glob("run-*.wandb")
    for _ in range(100):
        kinds = []
        for data in records(file):
            record = Record()
            record.ParseFromString(data)
            kinds.append(record.WhichOneof("record_type"))
        if "exit" in kinds:
            break
        time.sleep(0.2)
    replayed: dict[str, Any] = {"config": {}, "summary": {}, "history": {}}

    def take(kind: str, items: Any) -> None:
        for item in items:
            key = "/".join(item.nested_key) or item.key
            replayed[kind][key] = json.loads(item.value_json)

    for data in records(file):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            replayed["run"] = record.run
            take("config", record.run.config.update)
        take("config", record.config.update)
        take("summary", record.summary.update)
        take("history", record.history.item)
    return replayed


@pytest.mark.slow
def test_offline_run_holds_what_was_logged(spec: Spec, store: Store, tmp_path: Path) -> None:
    directory = log_run(settings("offline"), spec, store, OUTCOME, "sweeps/1", tmp_path / "job")
    assert directory is not None
    assert tmp_path / "job" in directory.parents
    replayed = read_back(directory)
    assert replayed["run"].run_group == "sweeps/1"
    assert replayed["run"].project == "trial"
    assert replayed["run"].display_name == f"csa(2) five {spec.protocol.name} custom"
    assert replayed["config"]["key"] == spec.key
    assert replayed["config"]["config"]["attention"]["temperature"] == 2.0
    summary = replayed["summary"]
    assert summary["miou"] == 0.25
    assert summary["iou/grass"] == 0.125
    assert summary["diagnostics/attention_entropy"] == 0.75
    table = directory / "files" / replayed["history"]["iou_per_class/path"]
    content = json.loads(table.read_text())
    assert content["columns"] == ["class", "iou"]
    assert content["data"][:4] == [["sky", 0.5], ["grass", 0.125], ["dog", 0.25], ["cat", 0.0]]
    assert replayed["run"].run_id == _id(spec.key, "", "")
    assert replayed["run"].job_type == "cell"
    assert "five" in replayed["run"].tags
    assert replayed["config"]["images"] == len(spec.dataset)
    assert replayed["history"]["miou"] == 0.25
    assert not [key for key in (*summary, *replayed["history"]) if " " in key]
    file = directory / "files" / replayed["history"]["per_image/path"]
    images = json.loads(file.read_text())
    assert images["columns"] == ["image", "pixel_accuracy", "miou"]
    assert [row[0] for row in images["data"]] == spec.dataset.names
    assert (directory / "files" / replayed["history"]["attention_maps/path"]).is_file()
    picture = "predictions/0"
    assert replayed["history"][f"{picture}/caption"] == "0"
    for part in (picture, f"{picture}/masks/prediction", f"{picture}/masks/truth"):
        assert (directory / "files" / replayed["history"][f"{part}/path"]).is_file()


@pytest.mark.slow
def test_what_was_written_before_is_not_written_again(
    spec: Spec, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def log(outcome: dict[str, Any], folder: str, sweep: str = "") -> Path | None:
        return log_run(settings("offline"), spec, store, outcome, None, tmp_path / folder, sweep)

    first = log(OUTCOME, "1")
    assert first is not None
    assert log(OUTCOME, "2") == first
    assert not (tmp_path / "2").exists()
    with caplog.at_level("INFO"):
        finish()
    assert str(first) in caplog.text
    of_a_sweep = log(OUTCOME, "3", "some sweep")  # its group is another
    other = log(OUTCOME | {"miou": 0.5}, "4")
    assert other is not None
    assert len({first, of_a_sweep, other}) == 3
    (file,) = (store.root / "tracking").glob(f"{_id(spec.key, '', '')}.json")
    file.write_text("[]")
    again = log(OUTCOME | {"miou": 0.5}, "damaged")
    assert again not in (None, other)
    other = again
    shutil.rmtree(other)
    assert log(OUTCOME | {"miou": 0.5}, "5") != other  # nothing is left of it to be sent


def test_disabled_writes_nothing(spec: Spec, tmp_path: Path) -> None:
    nowhere = tmp_path / "job"
    assert log_run(settings("disabled"), spec, None, OUTCOME, None, nowhere) is None  # type: ignore[arg-type]
    assert not nowhere.exists()


def test_unknown_mode(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"unknown tracking\.mode 'ofline'.*did you mean offline"):
        log_run(settings("ofline"), spec, None, OUTCOME, None, tmp_path)  # type: ignore[arg-type]


@pytest.mark.slow
def test_sweep_run_holds_table_scatter_and_report(spec: Spec, store: Store, tmp_path: Path) -> None:
    """Slow for W&B's own process, and for a report."""
    measures = ["spatial_invariance"]
    evaluate([spec], store, observers=[Diagnostics(measures)], progress=False)
    df = lab.results.load(store.root)
    directory = log_sweep(settings("offline"), store.root, df, "demo 1", tmp_path / "sweep")
    assert directory is not None
    replayed = read_back(directory)
    assert replayed["run"].job_type == "sweep"
    content = json.loads((directory / "files" / replayed["history"]["scores/path"]).read_text())
    [row] = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert row["miou"] == pytest.approx(float(lab.results.miou(df).iloc[0]))
    history = replayed["history"]
    joined = directory / "files" / history["diagnostics_against_miou/path"]
    assert measures[0] in json.loads(joined.read_text())["columns"]
    assert any(key.startswith(f"scatter/{measures[0]}") for key in history)
    report = (directory / "files" / history["report/path"]).read_text()
    assert "</html>" in report
    assert "csa(2)" in report
    assert not [key for key in history if " " in key]


def test_scores_of_each_image_equal_the_stores(store: Store) -> None:
    df = lab.results.load(store.root)
    table = per_image(df)
    for _, row in table.iterrows():
        one = df[df["image"] == row["image"]]
        assert row["pixel_accuracy"] == pytest.approx(
            float(lab.results.pixel_accuracy(one).iloc[0])
        )
        assert row["miou"] == pytest.approx(float(lab.results.miou(one).iloc[0]))


@pytest.mark.slow
def test_runs_of_parts_and_of_sweeps_are_runs_of_their_own(
    spec: Spec, store: Store, tmp_path: Path
) -> None:
    runs = {}
    for name, sweep, more in [
        ("whole", "", {}),
        ("part", "", {"shard": [0, 2]}),
        ("other part", "", {"shard": [1, 2]}),
        ("sweep", sweep_id([spec.key, "other"]), {}),
        ("other sweep", sweep_id([spec.key]), {}),
    ]:
        outcome = OUTCOME | more
        directory = log_run(settings("offline"), spec, store, outcome, None, tmp_path / name, sweep)
        assert directory is not None
        runs[name] = read_back(directory)["run"]
    assert len({run.run_id for run in runs.values()}) == 5
    assert runs["other part"].display_name.endswith("part 2 of 2")
    assert "part 2 of 2" in runs["other part"].tags
    assert "part" not in runs["whole"].display_name
    df = lab.results.load(store.root)
    whole, part = (
        log_sweep(settings("offline"), store.root, df, None, tmp_path / str(shard), shard=shard)
        for shard in ((0, 1), (0, 2))
    )
    assert whole is not None
    assert part is not None
    assert read_back(part)["run"].display_name == "sweep of 1 cells part 1 of 2"
    assert read_back(whole)["run"].run_id != read_back(part)["run"].run_id


@pytest.mark.slow
def test_an_agents_run_keeps_the_agents_name(
    spec: Spec, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r7")
    for folder in ("1", "2"):  # each call of an agent is a run, whatever was written before
        directory = log_run(settings("offline"), spec, store, OUTCOME, None, tmp_path / folder)
        assert directory is not None
        run = read_back(directory)["run"]
        assert (run.run_id, run.sweep_id) == ("r7", "s1")
    with pytest.raises(LabError, match="leave out -m"):
        check(settings("offline"), 2)
    check(settings("disabled"), 2)


def test_keys_are_one_to_one_with_names() -> None:
    names = ["C++", "C#", "alarm clock", "alarm_clock", "alarm_clock#0", "a/b", "na\u00efve", "C_"]
    metric_keys = keys(names)
    assert list(metric_keys) == names
    assert len(set(metric_keys.values())) == len(names)
    assert not any(" " in key for key in metric_keys.values())
    assert keys(["sky", "potted plant"]) == {"sky": "sky", "potted plant": "potted_plant"}
