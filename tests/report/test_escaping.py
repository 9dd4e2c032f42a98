"""A name of a stranger's is text in a page, in a table, in a figure and in a file's name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sclip_lab.paper import sections, verdicts
from sclip_lab.paper.claims import Claim
from sclip_lab.report import escaping, page
from sclip_lab.report.figures import style

NAME = "a<script>alert(1)</script>\n|$x$_\"'`\\~^\u2028[b](c)"


def test_page_and_files(tmp_path: Path) -> None:
    table = pd.DataFrame({NAME: [NAME], "mIoU": [0.5]})
    table.attrs["caption"] = NAME
    with style():
        figure = Figure()
        figure.subplots().set_title("$\\frac$ of $5")
    row = page.Row({NAME: NAME, "": "x"}, {NAME: NAME}, {"": "#s"})
    section = page.Section(
        "s", NAME, NAME, [NAME], [row], tables={NAME: table}, makers=[lambda: {NAME: figure}]
    )
    files = page.write([section], tmp_path / "out", NAME, [NAME])
    text = files[0].read_text()
    assert "<script>alert" not in text
    assert 'alt="a<' not in text
    assert {file.parent for file in files} == {tmp_path / "out"}
    tex = next(file for file in files if file.suffix == ".tex").read_text()
    assert "\\$x\\$\\_" in tex
    assert "\u2028" not in tex
    assert len([line for line in tex.splitlines() if "script" in line]) == 4  # one is a label


def test_tables_keep_their_rows() -> None:
    judged = verdicts.judge([Claim(NAME, NAME, no_verdict=NAME, study=NAME)])
    text = sections.markdown([], judged)
    assert "<script>" not in text
    assert sum(line.startswith("|") for line in text.splitlines()) == 3


@pytest.mark.parametrize("name", ["../../x", "", ".", "a/b", "x" * 500, "\ud800", "con\0"])
def test_file_names_stay_in_their_folder(name: str) -> None:
    file = escaping.file_name(name)
    assert file
    assert len(file.encode()) <= 120
    assert not {"/", "\\", "\0"} & set(file)
    assert not file.startswith(".")
