"""What counts as right for malformed input: a right answer, or one clear error in time.

How many examples hypothesis draws is multiplied by the variable SCLIP_LAB_HOSTILE; `make torture`
sets it, and counts the cases by the file that SCLIP_LAB_HOSTILE_COUNT names.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sclip_lab.core.errors import LabError

MORE = float(os.environ.get("SCLIP_LAB_HOSTILE", 1))
EVIL = "evil"  # the file, in the working folder, that code in hostile files tries to make
SECONDS = 60  # of one case, beyond which it hangs
BAD: list[Any] = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, -0.0, 0.5, 1e-300, 1e308, 2**31, 2**63,
    10**30, "", "abc", "nan", "x" * 3000, "a\x00b", "\ud800", "a\nb", [], [1], [float("nan")], {},
    {"a": 1}, {"_target_": "os.system"}, {"_target_": 5}, None, True, False, [[]], [None],
    "${oc.env:HOME}", "???",
]  # fmt: skip
cases = 0  # of this session


class Hang(BaseException):
    """A case that took too long; no `Exception`, so that nothing catches it."""


def examples(count: int) -> settings:
    """Settings of a test that draws so many examples, times SCLIP_LAB_HOSTILE."""
    return settings(
        max_examples=max(1, round(count * MORE)), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def ends_well(run: Callable[[], object], *culprits: str) -> None:
    """Run one case; it may raise a LabError of one line that names one of the culprits.

    Raises:
        AssertionError: another error text, code of the input that was run, or what ``run`` asserts.
        Exception: of another kind: a traceback for the user.
        Hang: it took too long.
    """
    global cases
    cases += 1
    try:
        with _limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except LabError as error:
        text = str(error).strip()
        assert "\n" not in text
        assert not culprits or any(culprit in text for culprit in culprits), text
    assert not Path(EVIL).exists(), "code of the input was run"


def changed(content: bytes) -> st.SearchStrategy[bytes]:
    """A file with bits changed, cut, doubled or with other bytes put in."""
    place = st.integers(0, max(0, len(content) - 1))
    some = st.binary(min_size=1, max_size=30)
    return st.one_of(
        st.tuples(place, st.integers(0, 7)).map(lambda at: _flipped(content, *at)),
        place.map(lambda end: content[:end]),
        st.tuples(place, some).map(lambda at: content[: at[0]] + at[1] + content[at[0] :]),
        st.tuples(place, some).map(lambda at: content[: at[0]] + content[at[0] + len(at[1]) :]),
    )


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    flipped = bytearray(content)
    if flipped:
        flipped[place] ^= 1 << bit
    return bytes(flipped)


@contextmanager
def _limit() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
