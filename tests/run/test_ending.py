"""Whatever goes wrong, a command ends in one line; what is written is what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.run import ending, main
from tests.running import evaluate


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (MemoryError(), "not enough memory"),
        ("\ud800", "holds letters that cannot be written"),
        (KeyError("x\ny"), "unexpected KeyError: "),
    ],
)
def test_errors_of_other_kinds_are_one_line(error: object, text: str) -> None:
    if isinstance(error, str):
        with pytest.raises(UnicodeEncodeError) as found:
            error.encode()
        error = found.value
    assert isinstance(error, BaseException)
    told = ending.told(error)
    assert text in told
    assert "\n" not in told


def test_a_fault_names_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault() -> int:
        raise TypeError("no such thing")

    assert ending.in_one_line(fault, "sclip-lab segment x") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "unexpected TypeError in test_ending.py:" in line
    assert "'sclip-lab segment x'" in line
    monkeypatch.setenv(ending.VARIABLE, "1")
    ending.in_one_line(fault, "sclip-lab")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--out", "map.jpg"], "--out map.jpg: the label map keeps its ids as one of .png"),
        (["--out", "map"], "--out map: the label map"),
        (["--out", "PHOTO"], "is the photo itself"),
        ([f"c{number}" for number in range(257)], "256 classes at most"),
        (["--seed", "-1"], "seed -1 must be at least 0"),
        (["--seed", "9" * 30], "seed 9999"),
    ],
)
def test_segment_refuses_before_it_computes(
    photo: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["segment", str(photo), "sky", *[str(photo) if w == "PHOTO" else w for w in words]]
    before = photo.read_bytes()
    assert main.main(line) == 1
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "text"),
    [(["segment", "sky"], "small.png: "), (["explore", "--mask", "MASK"], "small.png with mask ")],
)
def test_a_photo_of_a_size_that_does_not_fit_is_named(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.png"
    Image.fromarray(np.full((1, 3), 2, np.uint8)).save(small)
    line = [*words[:1], str(small), *words[1:], "--out", str(tmp_path / "out.png")]
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((5, 7), 2, np.uint8)).save(mask)
    assert main.main([str(mask) if word == "MASK" else word for word in line]) == 1
    assert text in capsys.readouterr().err.splitlines()[-1]


def test_warnings_are_one_line_without_a_place_in_the_code() -> None:
    code = (
        "import warnings\n"
        "from sclip_lab.run import ending\n"
        "ending.readable_output()\n"
        "warnings.warn('left out: a\\nb')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr == "warning: left out: a\\nb\n"


@pytest.mark.parametrize("lr", ["nan", "inf", "-1", "1e30"])
def test_learning_rates_that_cannot_be_meant(lr: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["learn-projection", "--images", "1", "--steps", "1", "--lr", lr]) == 1
    assert "lr" in capsys.readouterr().err


def test_hydras_own_errors_are_one_line(tmp_path: Path) -> None:
    for word in (
        "attention=[",
        "=",
        "hydra.run.dir=/dev/null/x",
        "attention=null",
        "tracking=null",
    ):
        outcome = evaluate(tmp_path, word)
        assert outcome.code == 1, word
        errors = [line for line in outcome.err.splitlines() if line.strip()]
        assert len(errors) == 1, outcome.err
        assert errors[0].startswith("error: "), outcome.err
        assert ending.UNEXPECTED not in errors[0]


def test_numbers_of_more_digits_than_python_reads(tmp_path: Path) -> None:
    outcome = evaluate(tmp_path, "seed=" + "9" * 5000)
    assert outcome.code == 1
    assert outcome.err.startswith("error: seed=999")
    assert ending.UNEXPECTED not in outcome.err


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("hydra.job.name=a/b", "hydra.job.name: 'a/b' must be the name of a file"),
        ("on_error=???", "on_error: '???' stands for a value"),
    ],
)
def test_values_that_only_hydra_reads(tmp_path: Path, word: str, text: str) -> None:
    outcome = evaluate(tmp_path, "attention=csa", word)
    assert outcome.code == 1
    assert text in outcome.err
