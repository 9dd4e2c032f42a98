"""Where bars of progress are shown."""

from __future__ import annotations

import io
import sys

import pytest

from sclip_lab.core.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO(), False), (Terminal(), True)])
def test_a_bar_is_for_a_terminal(
    stream: io.StringIO, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of another test
    for _ in Bar(range(3), "photos"):
        pass
    assert ("photos: 100%" in stream.getvalue()) == shown
    assert shown or not stream.getvalue()
    before = stream.getvalue()
    for _ in Bar([], "nothing"):
        pass
    assert stream.getvalue() == before
    with Bar(total=3, disable=True) as hidden:
        hidden.update(3)
    assert stream.getvalue().count("100%") <= 1
