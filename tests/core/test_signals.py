"""Signals: raised once, and one line at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sclip_lab.core import signals


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """A signal that this process was told to ignore (nohup, a job in the background) would be
    ignored in here as well."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SHOWS = """
import os, signal, sys
from sclip_lab.core import signals
with signals.one_line("go on"):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    finally:
        print("written")
print("not reached")
"""


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_raised_within_and_default_again_behind(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(signals.Interrupted) as caught, signals.raised():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before


def test_what_a_callback_swallows_is_raised_again() -> None:
    with signals.raised():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.Interrupted):
            signals.check()
    signals.check()  # it is over


def test_handlers_of_others_stay() -> None:
    signals_caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals_caught.append(number))
    try:
        with signals.raised():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals_caught == [signal.SIGTERM]
        with pytest.raises(signals.Interrupted), signals.raised(always=True):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_two_at_once_are_one_and_the_second_kills() -> None:
    code = (
        "import contextlib, os, signal, time\n"
        "from sclip_lab.core import signals\n"
        "signals.TOGETHER_SECONDS = 0.5\n"
        "with signals.raised():\n"
        "    for wait in (0, 0, 0.7):\n"
        "        time.sleep(wait)\n"
        "        with contextlib.suppress(KeyboardInterrupt):\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('goes on', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == "goes on\ngoes on\n"


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_one_line_and_the_usual_code(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SHOWS, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 128 + number
    assert ended.stdout == "written\n"
    assert ended.stderr == f"interrupted by {number.name}; go on\n"


def test_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raised(always=True):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
