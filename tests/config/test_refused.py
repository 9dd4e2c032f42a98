"""What cannot work is refused before it is computed; a report that fails loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sclip_lab import results
from sclip_lab.run import tracking
from tests.running import fail, succeed


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "attention=csa", "device=cuda")
    assert outcome.err.startswith("error: backbone: device cuda cannot be used here")
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_online_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    outcome = fail(tmp_path, "attention=csa", "tracking=online")
    assert "needs a W&B key" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_reports_that_cannot_be_written_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "_log", full)
    (tmp_path / "run/result.json").mkdir(parents=True)  # no file can be put in its place
    outcome = succeed(tmp_path, "attention=csa", "tracking=offline")
    assert "mIoU" in outcome.out
    assert "result.json" in outcome.out
    assert "No space left" in outcome.out
    assert "the numbers are in the store" in outcome.out
    assert results.load(tmp_path / "store")["image"].nunique() == 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("guidance=5", "unknown guidance '5'"),
        ("plugins=5", "plugins: '5' is not the name of a module"),
        ("protocol.templates=[nan]", "protocol.templates.0: nan must be a finite number"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(typed: str, message: str, tmp_path: Path) -> None:
    outcome = fail(tmp_path, *typed.split())
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("sed: 5", "unknown key 'sed'; did you mean seed"),
        ("pictures: {image: 3}", "pictures: unknown key 'image'; did you mean images"),
    ],
)
def test_a_slip_in_a_preset_is_not_ignored(preset: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{preset}\n")
    outcome = fail(tmp_path, f"--config-dir={tmp_path}", "experiment=mine")
    assert message in outcome.err
