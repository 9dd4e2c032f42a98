"""A short version of ``make torture``: some kills and flips. Malformed input: tests/hostile."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.torture import __main__ as torture
from benchmarks.torture import flips


def test_every_flip_is_found(tmp_path: Path) -> None:
    outcome = flips.flip(tmp_path, 12, random.Random(0))
    assert outcome["flips"] == 96
    assert outcome["flips_undetected"] == 0


def test_a_run_that_stops_short_fails_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    whole = dict.fromkeys(
        ("images_lost", "images_doubled", "wrong_outcomes", "flips_undetected", "shares_not_run"), 0
    )
    assert torture._verdict(whole, 30) == 0
    assert capsys.readouterr().err == ""
    assert torture._verdict(whole | {"shares_not_run": 7}, 30) == 1
    assert "stopped short after 30 minutes: 7 shares" in capsys.readouterr().err
    assert all(torture._verdict(whole | {key: 1}, 30) == 1 for key in whole)


KILLS = """
import json, sys
from pathlib import Path
from benchmarks.torture import kills
root = Path(sys.argv[1])
found = [kills.at_points(root, [5, 50, 150, 250]), kills.at_points(root, [9, 99, 199], kills.half)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_killed_writers_lose_and_double_nothing(tmp_path: Path) -> None:
    # In a process of its own: this one has threads, which do not live on in a fork.
    run = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for outcome in json.loads(run.stdout):
        assert outcome["kill_points"] >= 3
        assert (outcome["lost"], outcome["doubled"], outcome["wrong"]) == (0, 0, 0)


@pytest.mark.slow
def test_signals_end_a_run_and_a_sweep_of_local_jobs_in_time_and_keep_what_is_done() -> None:
    command = [sys.executable, "-m", "benchmarks.torture.ends", "--times", "1", "--jobs", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("| 0 |") == 4
