"""`make parity` on a set of other weights, images, sizes and names, and on a wrong one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import parity_report, parity_set, vectors

# About one image each, and about windows of one.
FILES = ("clearclip_keep", "gla_proxy_smooth")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("public")
    for path in (vectors.HERE / "make_clip.py", vectors.HERE / "vectors" / "meta.json"):
        shutil.copy(path, source)
    for name in FILES:
        shutil.copy(vectors.HERE / "vectors" / f"{name}.npz", source)
    target = tmp_path_factory.mktemp("second") / "set"
    parity_set.make(source, target)
    return target


def report(folder: Path, monkeypatch: pytest.MonkeyPatch, *only: str) -> int:
    chosen = ["--only", *only] if only else []
    monkeypatch.setattr("sys.argv", ["parity_report", str(folder), *chosen])
    return parity_report.main()


def test_another_set_is_compared_by_what_it_says_itself(
    second: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(second / "clearclip_keep.npz") as arrays:
        assert "north__feat" in arrays.files
    assert report(second, monkeypatch) == 0
    assert f"{len(FILES)} of {len(FILES)} files ok" in capsys.readouterr().out


def test_an_array_that_nobody_compares_and_nan_fail(
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    shutil.copy(second / "make_clip.py", tmp_path)
    with np.load(second / "clearclip_keep.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    np.savez(tmp_path / "clearclip_keep.npz", **arrays, east__depth=np.zeros(3))
    assert report(tmp_path, monkeypatch) == 1
    assert "east__depth (not compared): inf" in capsys.readouterr().out
    arrays["north__feat"] = np.full_like(arrays["north__feat"], np.nan)
    np.savez(tmp_path / "clearclip_keep.npz", **arrays)
    assert report(tmp_path, monkeypatch) == 1
    assert "north__feat (not finite): inf" in capsys.readouterr().out


@pytest.mark.slow
def test_every_comparison_runs_on_another_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Outputs are our own: none depends on the public set's names, seeds, photos or sizes."""
    source = vectors.HERE / "vectors"
    shutil.copytree(source, tmp_path / "public")
    shutil.copy(vectors.HERE / "make_clip.py", tmp_path / "public")
    parity_set.make(tmp_path / "public", tmp_path / "set")
    assert report(tmp_path / "set", monkeypatch) == 0
    count = len(list(source.glob("*.npz")))
    assert f"{count} of {count} files ok" in capsys.readouterr().out


def test_a_wrong_array_and_a_file_without_comparison_fail(
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    shutil.copy(second / "make_clip.py", wrong)
    with np.load(second / "clearclip_keep.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    arrays["east__feat"] = arrays["east__feat"] + 1e-3
    np.savez(wrong / "clearclip_keep.npz", **arrays)
    assert report(wrong, monkeypatch) == 1
    assert "NOT OK" in capsys.readouterr().out
    shutil.copy(second / "clearclip_keep.npz", wrong)
    assert report(wrong, monkeypatch) == 0
    np.savez(wrong / "a_new_method.npz", east__feat=arrays["east__feat"])
    assert report(wrong, monkeypatch) == 1
    assert "a_new_method                 NO COMPARISON" in capsys.readouterr().out
