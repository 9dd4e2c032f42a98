"""Tab completion, versions and help."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from sclip_lab.cli import completion
from sclip_lab.cli.main import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sclip-lab ev", ["evaluate"]),
        ("sclip-lab evaluate attention=vanil", ["attention=vanilla"]),
        ("sclip-lab evaluate -m attention=csa,maskc", ["attention=csa,maskclip"]),
        ("sclip-lab tune attention.tempe", ["attention.temperature="]),
        ("sclip-lab paper vocab", ["vocabulary"]),
        ("sclip-lab store swe", ["sweeps"]),
        ("sclip-lab report nothing", []),
    ],
)
def test_words_that_may_come_next(line: str, expected: list[str]) -> None:
    assert completion.candidates(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "completion --words" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here: its script is not parsed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_no_command_is_help_and_the_version_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "tune " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("sclip-lab 0.")


def test_help_lists_studies_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ((["paper"], "vocabulary"), (["report"], "dataset.split")):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        assert expected in capsys.readouterr().out
