"""A multirun as jobs: the same numbers as in one pass, and one error that names the log."""

from __future__ import annotations

import operator
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.evaluation import recorder
from sclip_lab.results.store import sweeps
from sclip_lab.results.store.store import Store
from sclip_lab.run import jobs, launcher
from tests import slurm
from tests.running import QUICK, Outcome, break_photo, evaluate, fail, succeed

SWEEP = ("-m", "attention=vanilla,csa", "dataset.limit=3")
DEBUG = ("hydra/launcher=local_jobs", "hydra.launcher.executor=debug")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("fused")
    succeed(folder, *SWEEP)
    return results.load(folder / "store")


def check(outcome: Outcome, folder: Path, expected: pd.DataFrame) -> None:
    """Equal numbers, and every Hydra job left what it always leaves."""
    assert outcome.code == 0, outcome.err
    df = results.load(folder / "store")
    pd.testing.assert_frame_equal(df, expected)
    assert df.attrs["class_names"] == expected.attrs["class_names"]
    assert "mIoU" in outcome.out  # the table
    for number in "01":
        assert (folder / "sweep" / number / "result.json").is_file()
        assert (folder / "sweep" / number / ".hydra/config.yaml").is_file()
        assert "mIoU" in (folder / "sweep" / number / "evaluate.log").read_text()


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_equal_one_pass(
    tmp_path: Path, fused: pd.DataFrame, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = []
    start = recorder.Recorder.__init__

    def recording(self: recorder.Recorder, *args: Any) -> None:
        start(self, *args)
        statuses.append({key: len(names) for key, names in self.uncounted.items()})

    monkeypatch.setattr(recorder.Recorder, "__init__", recording)
    outcome = evaluate(tmp_path, *SWEEP, *DEBUG, f"hydra.launcher.shards={shards}")
    check(outcome, tmp_path, fused)
    computing = [missing for missing in statuses if any(missing.values())]
    assert len(computing) == shards  # whole fused groups,
    assert all(len(missing) == 2 for missing in computing)
    assert len(statuses) == shards + 1  # and one look into the store, for the two Hydra jobs


def test_diagnostics_and_pictures_are_not_left_to_the_launching_process(tmp_path: Path) -> None:
    options = ("diagnostics=default", "pictures.images=2")
    succeed(tmp_path, *SWEEP, *DEBUG, "hydra.launcher.shards=2", *options)
    assert results.diagnostics(tmp_path / "store")["image"].nunique() == 3


@pytest.mark.parametrize("finish", ["here", "job"])
def test_a_bad_job_does_not_stop_the_others(tmp_path: Path, finish: str) -> None:
    layers = "attention.layers=[-1],[99],[-2]"
    how = ("hydra.launcher.shards=2", f"hydra.launcher.finish={finish}")
    outcome = fail(tmp_path, "-m", *DEBUG, "attention=csa", layers, *how)
    assert [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert outcome.out.count("left out of the") == 3  # by each shard, and once by the launcher
    stored = sorted(p.parent.name for p in tmp_path.glob("sweep/*/result.json"))
    assert stored == ["0", "2"]


@pytest.mark.parametrize("finish", ["here", "job"])
def test_a_sweep_is_noted_once(tmp_path: Path, finish: str) -> None:
    succeed(tmp_path, *SWEEP, *DEBUG, f"hydra.launcher.finish={finish}")
    [sweep] = sweeps.read(tmp_path / "store").values()
    assert len(sweep["cells"]) == 2
    assert sweep["first"] == sweep["last"]


def test_a_pass_that_stops_is_an_error_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_photo(monkeypatch, 1)
    outcome = fail(tmp_path, *SWEEP, *DEBUG, "hydra.launcher.shards=3")
    assert outcome.err.startswith("error: 1 of 3 jobs failed")
    assert "photo 1 is damaged" in outcome.err
    assert results.load(tmp_path / "store", partial=True)["image"].nunique() == 2
    assert not list(tmp_path.glob("sweep/*/result.json"))  # nothing was computed here instead


def test_results_that_do_not_arrive_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "VISIBLE_SECONDS", 0.0)
    monkeypatch.setattr(launcher, "compute_shard", lambda *_: {})
    outcome = fail(tmp_path, *SWEEP, *DEBUG)
    assert "results are missing here: vanilla, csa" in outcome.err
    assert "paths.store" in outcome.err


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("shard=[0,2]", "hydra.launcher.shards=2"), "the launcher makes 2 shards itself"),
        (("hydra.launcher.shards=4",), "has 3 images, use at most that many"),
        (("hydra.launcher.shards=0",), "must be at least 1"),
        (("hydra.launcher.gpus_per_node=1",), "the device here is the CPU"),
        (("hydra.launcher.finish=there",), "unknown hydra.launcher.finish 'there'"),
        (("hydra.launcher.executor=slrum",), "did you mean slurm"),
        (("hydra.launcher.setup=module load cuda",), "must be a list of text or null"),
        (("hydra.launcher.timeout_min=soon",), "timeout_min: 'soon' must be a whole number"),
    ],
)
def test_what_cannot_work_is_not_submitted(
    tmp_path: Path, overrides: tuple[str, ...], why: str
) -> None:
    outcome = fail(tmp_path, *SWEEP, *DEBUG, *overrides)
    assert outcome.err.startswith("error:")
    assert why in outcome.err
    assert not (tmp_path / "store/specs").exists()


def test_local_jobs_take_turns_on_the_gpus() -> None:
    assert [jobs._take_turns(["3", "5"], 1, index) for index in range(3)] == [["3"], ["5"], ["3"]]
    assert jobs._take_turns(["0", "1", "2", "3"], 2, 1) == ["2", "3"]
    assert jobs._take_turns(["0"], 2, 1) == ["0"]


def test_own_shard_with_one_job(tmp_path: Path) -> None:
    succeed(tmp_path, *SWEEP, *DEBUG, "shard=[0,2]")
    assert results.load(tmp_path / "store", partial=True)["image"].nunique() == 2


def test_without_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(LabError, match="pip install submitit"):
        jobs.run(print, 1, tmp_path, jobs.Resources("debug"))


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"slurm: .*srun"):
        jobs.run(print, 1, tmp_path, jobs.Resources("slurm"))


def test_cell_opened_twice_keeps_its_place(tmp_path: Path) -> None:
    """Two shards may open a cell at the same time; tables are in the order of opening."""

    class Cell:
        key = "cell"

        def record(self) -> dict[str, str]:
            return {"by": "first"}

    class Slower(Cell):
        def record(self) -> dict[str, str]:
            Store(tmp_path).open(Cell())  # type: ignore[arg-type]
            return {"by": "second"}

    Store(tmp_path).open(Slower())  # type: ignore[arg-type]
    [file] = (tmp_path / "specs/cell").iterdir()
    assert "first" in file.read_text()


@pytest.mark.slow
def test_local_processes(tmp_path: Path, fused: pd.DataFrame) -> None:
    # The store is relative: it has to be the same place in a job.
    outcome = evaluate(
        tmp_path, *SWEEP, "hydra/launcher=local_jobs", "hydra.launcher.shards=2",
        "hydra.launcher.setup=['export SETUP_RAN=yes']", "paths.store=store",
    )  # fmt: skip
    check(outcome, tmp_path, fused)
    assert len(list((tmp_path / "sweep/submitit").glob("*_result.pkl"))) == 2
    assert len(list(tmp_path.glob("store/text/*"))) == 1


@pytest.mark.slow
def test_the_last_job_notes_the_command_that_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sclip-lab", "evaluate", *SWEEP])
    succeed(tmp_path, *SWEEP, "hydra/launcher=local_jobs", "hydra.launcher.finish=job")
    [sweep] = sweeps.read(tmp_path / "store").values()
    assert sweep["command"] == " ".join(["sclip-lab", "evaluate", *SWEEP])


@pytest.mark.slow
def test_failed_process_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"(?s)1 of 2 jobs failed.*ZeroDivisionError") as caught:
        jobs.run(partial(operator.truediv, 1), 2, tmp_path, jobs.Resources("local"))
    [log] = re.findall(r"its log (\S+) ends", str(caught.value))
    assert "ZeroDivisionError" in Path(log).read_text()


@pytest.mark.slow
def test_interrupt_cancels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Any] = []

    def interrupted(waiting: list[Any], executor: str) -> None:
        submitted.extend(waiting)
        deadline = time.monotonic() + 60
        started = waiting[0].paths.stdout
        while "Starting" not in (started.read_text() if started.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "_failures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jobs.run(partial(subprocess.call, ["sleep", "600"]), 1, tmp_path, jobs.Resources("local"))
    deadline = time.monotonic() + 30
    while not submitted[0].done() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert submitted[0].done()


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.MISSING), reason=slurm.SKIP)
def test_slurm(tmp_path: Path, fused: pd.DataFrame) -> None:
    common = (
        "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10",
        "hydra.launcher.partition=test", "+hydra.launcher.additional.comment=test",
    )  # fmt: skip
    with slurm.running():
        for name in ("good", "killed", "refused"):
            (tmp_path / name).mkdir()
        how = ("hydra.launcher.shards=2", "hydra.launcher.finish=job")
        outcome = evaluate(tmp_path / "good", *SWEEP, *common, *how)
        check(outcome, tmp_path / "good", fused)
        assert re.search(r"2 jobs: .*(pending|running|configuring)", outcome.out)
        submitted = tmp_path / "good/sweep/submitit"
        assert len(list(submitted.glob("*_result.pkl"))) == 3
        assert len(list(submitted.glob("*_submission.sh"))) == 2  # an array, and the end

        # A job that Slurm ends leaves no result, and without accounting sacct knows nothing.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs, "QUEUE_SECONDS", 1.0)
            patch.setattr(jobs, "VISIBLE_SECONDS", 1.0)
            setup = "hydra.launcher.setup=['echo no module cuda >&2', 'exit 3']"
            outcome = evaluate(tmp_path / "killed", *SWEEP, *common, setup)
        assert outcome.code == 1
        assert outcome.err.startswith("error: 1 of 1 jobs failed")
        assert "no module cuda" in outcome.err
        assert re.search(r"its log \S+_log.err ends with", outcome.err)

        outcome = fail(tmp_path / "refused", *SWEEP, *common, "hydra.launcher.partition=none")
        assert "error: slurm does not take the job" in outcome.err
        assert "partition" in outcome.err


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.MISSING), reason=slurm.SKIP)
def test_slurm_queues_a_preempted_job_again_and_it_goes_on(tmp_path: Path) -> None:
    sweep = [
        "-m", "attention=vanilla,csa", "dataset.limit=150", "hydra/launcher=slurm",
        "hydra.launcher.partition=test", "hydra.launcher.timeout_min=10",
        "hydra.launcher.cpus_per_task=1",
        f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep", *QUICK,
    ]  # fmt: skip
    sweep.remove("dataset.limit=2")
    command = [sys.executable, "-m", "sclip_lab.cli.main", "evaluate", *sweep]
    deadline = time.monotonic() + 330

    def wait(ready: Callable[[], bool]) -> None:
        while not ready():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)

    def state(what: str) -> str:
        words = ["squeue", "--me", "--noheader", f"--format={what}"]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()

    with slurm.running(), (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            wait(lambda: bool(list(tmp_path.glob("store/specs/*/rows-*"))))
            job = state("%A")
            # What --signal sends before Slurm preempts a job or ends its time.
            subprocess.run(["scancel", "--signal=USR2", job], check=True)
            wait(lambda: state("%T") == "PENDING")
            stored = results.load(tmp_path / "store", partial=True)["image"].nunique()
            # Slurm lets a job wait two minutes before it starts again.
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)
            assert process.wait(max(1, deadline - time.monotonic())) == 0
        finally:
            process.kill()
    assert 0 < stored < 150
    assert results.load(tmp_path / "store")["image"].nunique() == 150
    [log] = tmp_path.glob("sweep/submitit/*_log.err")
    assert "Requeued" in log.read_text()
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2
