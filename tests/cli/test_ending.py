"""Bad input ends in one line, a bug with its traceback; what is written is what was meant."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.cli import main
from sclip_lab.config.application import by_reason
from sclip_lab.core.errors import CrashError, LabError, bug_behind, describe, traceback_of
from tests.running import evaluate, fail


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
        (KeyError("x\ny"), "KeyError: "),
    ],
)
def test_errors_of_other_kinds_are_one_line(error: object, text: str) -> None:
    if isinstance(error, str):
        with pytest.raises(UnicodeEncodeError) as raised:
            error.encode()
        error = raised.value
    assert isinstance(error, BaseException)
    line = describe(error)
    assert text in line
    assert "\n" not in line


def crash() -> None:
    raise IndexError("out of range")


def test_only_a_bug_has_a_traceback() -> None:
    with pytest.raises(IndexError) as raised:
        crash()
    bug = raised.value
    where = CrashError("mine on image 3: IndexError: out of range")
    where.__cause__ = bug
    unfinished = LabError("attention 'mine': broken")
    unfinished.__cause__ = where
    for error in (bug, where, unfinished):
        assert bug_behind(error) is bug
        assert traceback_of(error).splitlines()[-3].strip().endswith("in crash")
    bad_input = LabError("no such file")
    bad_input.__cause__ = bug  # bad input that another library noticed
    for other in (bad_input, OSError(28, "No space left", "x"), MemoryError()):
        assert bug_behind(other) is None
        assert traceback_of(other) == ""
    assert traceback_of(bad_input, always=True)


def test_a_bug_is_told_from_bad_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> int:
        raise TypeError("no such thing")

    def bad_input() -> int:
        raise LabError("no such file")

    assert main.ended(bug) == 1
    first, *_, line = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert line.startswith("error: TypeError: no such thing (a bug")
    assert main.ended(bad_input) == 1
    assert capsys.readouterr().err == "error: no such file\n"
    monkeypatch.setenv(main.TRACEBACK, "1")
    main.ended(bad_input)
    assert "Traceback" in capsys.readouterr().err


def test_thresholds_of_garbage_collection_come_back() -> None:
    before = gc.get_threshold()
    assert main.ended(lambda: gc.get_threshold()[0]) > before[0]
    assert gc.get_threshold() == before


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
        "from sclip_lab.cli.main import readable_output\n"
        "readable_output()\n"
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
        assert "a bug" not in errors[0]


def test_numbers_of_more_digits_than_python_reads(tmp_path: Path) -> None:
    outcome = fail(tmp_path, "seed=" + "9" * 5000)
    assert outcome.err.startswith("error: seed=999")
    assert "a bug" not in outcome.err


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("hydra.job.name=a/b", "hydra.job.name: 'a/b' must be the name of a file"),
        ("on_error=???", "on_error: needs a value"),
    ],
)
def test_values_that_only_hydra_reads(tmp_path: Path, word: str, text: str) -> None:
    outcome = fail(tmp_path, "attention=csa", word)
    assert text in outcome.err


def test_failures_of_a_sweep_are_grouped_by_reason() -> None:
    def failed(cell: str, cause: Exception) -> LabError:
        error = CrashError(f"{cell} on image a: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error

    errors = [failed("csa", ZeroDivisionError("division")), LabError("layer 99 of 12")]
    errors += [failed("gem", ZeroDivisionError("division")), failed("csa", KeyError("b"))]
    assert by_reason(errors) == (
        "2 x ZeroDivisionError: division (first: csa on image a); 1 x layer 99 of 12; "
        "1 x csa on image a: KeyError: 'b'"
    )


def test_a_program_ends_behind_all_exit_handlers_with_the_code_of_its_command() -> None:
    program = (
        "import atexit\n"
        "from sclip_lab.cli import main\n"
        "def command(words):\n"
        "    atexit.register(print, 'a handler has run')\n"
        "    print(*words)\n"
        "    return 3\n"
        "main.main = command\n"
        "main.script(['a', 'b'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (3, "a b\na handler has run\n")
    for words, code in ((["--version"], 0), (["nonsense"], 2)):
        line = [sys.executable, "-m", "sclip_lab.cli.main", *words]
        assert subprocess.run(line, capture_output=True).returncode == code
