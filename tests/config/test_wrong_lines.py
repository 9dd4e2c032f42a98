"""A wrong line in a part of one's own is shown with its file and line, on the terminal and in the
log; bad input stays one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sclip_lab.config import folders
from sclip_lab.core import functions
from tests import outside, running

# The last line of each function, and a wrong one in its place.
WRONG = {
    "variant": ("    return softened(whatever, heat)", "    return whatever.query.shape[9]"),
    "readout": ("    logits[..., 0] += by", "    logits[..., 0] += words.nothing"),
    "data set": ("        mask[:, self.side // 2 :] = 1", '        mask[:, self.side // 0 :] = 1'),
    "measure": ("    return seen.features.mean(dim=(1, 2))", "    return seen.features + 'a'"),
}  # fmt: skip
MEASURE = '''

def brightness(seen):
    """Mean feature."""
    return seen.features.mean(dim=(1, 2))
'''
WORDS = {
    "variant": ("attention=heated",),
    "readout": ("attention=csa", "readout=shifted"),
    "data set": ("attention=csa", "dataset=squares"),
    "measure": (
        "attention=csa",
        "diagnostics.measures=[clumsy.ideas.brightness]",
        "diagnostics.images=2",
    ),
}
ERRORS = {
    "variant": ("heated on image test_000000: IndexError: tuple index out of range", "heated"),
    "readout": ("csa on image test_000000: AttributeError: ", "shifted"),
    "data set": ("data set squares, image first: ZeroDivisionError: ", "__getitem__"),
    "measure": ("csa on image test_000000: TypeError: ", "brightness"),
}


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(functions, "_allowed", set())
    monkeypatch.setattr(folders, "_added", [])
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "clumsy"]:
        monkeypatch.delitem(sys.modules, name)


def run(tmp_path: Path, part: str, *words: str) -> tuple[running.Outcome, Path]:
    root = outside.write(tmp_path, "clumsy")
    right, wrong = WRONG[part]
    text = (root / "ideas.py").read_text() + MEASURE
    assert right in text
    (root / "ideas.py").write_text(text.replace(right, wrong))
    command = [f"--config-dir={root / 'conf'}", "plugins=[clumsy]", *WORDS[part]]
    with pytest.MonkeyPatch.context() as patch:
        if part == "data set":  # it has none of the settings of patchwork
            patch.setattr(running, "QUICK", [w for w in running.QUICK if "dataset" not in w])
        return running.evaluate(tmp_path, *command, *words), root / "ideas.py"


@pytest.mark.parametrize("part", WRONG)
def test_a_wrong_line_is_shown(part: str, tmp_path: Path) -> None:
    outcome, module = run(tmp_path, part)
    line, function = ERRORS[part]
    number = module.read_text().splitlines().index(WRONG[part][1]) + 1
    for text in (outcome.err, (tmp_path / "run/evaluate.log").read_text()):
        places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
        assert places[-1] == (str(module), str(number), function)
        assert f"error: {line}" in text
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith(f"error: {line}")


def test_a_wrong_line_of_one_variant_lets_the_others_go_on(tmp_path: Path) -> None:
    outcome, module = run(tmp_path, "variant", "-m", "attention=heated,csa")
    assert outcome.code == 1
    assert (tmp_path / "sweep/1/result.json").is_file()
    for text in (outcome.err, (tmp_path / "sweep/0/evaluate.log").read_text()):
        assert f'File "{module}"' in text


def test_a_photo_left_out_for_a_bug_shows_the_bug_once(tmp_path: Path) -> None:
    outcome, module = run(tmp_path, "variant", "on_error=skip")
    assert outcome.out.count(f'File "{module}"') == 1
