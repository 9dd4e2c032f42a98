"""Folders on a disk that is full or read-only, in a mount namespace of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import QUICK

UNSHARE = ["unshare", "--map-root-user", "--mount", "--propagation", "private"]
MOUNT = 'mount -t tmpfs -o "size=$1" none small && cd . && '


def _allowed() -> bool:
    try:
        tried = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _allowed(), reason="unshare (util-linux) is not allowed to mount here"),
]


def on_a_small_disk(
    folder: Path, *line: str, size: str = "16k", read_only: bool = False
) -> tuple[int, str, str]:
    """A command whose folder ``small`` is a file system of so many bytes."""
    (folder / "small").mkdir()
    locked = "mount -o remount,ro small && " if read_only else ""
    script = f'{MOUNT}{locked}shift && exec "$@"'
    command = [sys.executable, "-m", "sclip_lab.cli.main", *line]
    ran = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", size, *command],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_the_folder_of_a_run_or_a_sweep(tmp_path: Path, key: str, read_only: bool) -> None:
    flags = ["-m"] if key == "hydra.sweep.dir" else []
    line = ["evaluate", *flags, *QUICK, "paths.store=store", f"{key}=small/out"]
    code, _, err = on_a_small_disk(tmp_path, *line, size="4k", read_only=read_only)
    assert code == 1
    assert key in err or "small/out" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_wandbs_folder(tmp_path: Path, read_only: bool) -> None:
    quick = [word for word in QUICK if not word.startswith("tracking")]
    line = ["evaluate", *quick, "tracking=offline", "paths.store=store", "hydra.run.dir=small/run"]
    code, out, err = on_a_small_disk(tmp_path, *line, size="64k", read_only=read_only)
    if read_only:  # the run's folder is W&B's, and is needed first
        assert code == 1
        assert "small/run" in err
    else:
        assert code == 0, err
        assert "mIoU" in out


def test_safetensors(tmp_path: Path) -> None:
    line = ["learn-projection", "--images", "1", "--steps", "1", "--out", "small/w.safetensors"]
    code, _, err = on_a_small_disk(tmp_path, *line, size="4k")
    assert code == 1
    assert "error: cannot write small/w.safetensors: " in err.splitlines()[-1]


def test_a_report(tmp_path: Path) -> None:
    from tests.synthetic_store import write_store

    write_store(tmp_path / "store")
    code, _, err = on_a_small_disk(tmp_path, "report", "store", "--out", "small/report")
    assert code == 1
    assert "error: cannot write small/report/" in err.splitlines()[-1]
