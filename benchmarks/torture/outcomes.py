"""What counts as right and as wrong, and what malformed input is made of."""

from __future__ import annotations

import random
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis

from benchmarks.torture import shares
from sclip_lab.core.errors import LabError

MADE = "evil"  # the file, beside the process, that code in hostile files tries to make
SECONDS = 60  # of one case, beyond which it hangs
BAD: list[Any] = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, -0.0, 0.5, 1e-300, 1e308, 2**31, 2**63,
    10**30, "", "abc", "nan", "x" * 3000, "a\x00b", "\ud800", [], [1], [float("nan")], {}, {"a": 1},
    {"_target_": "os.system"}, {"_target_": 5}, None, True, False, [[]], [None], "${oc.env:HOME}",
]  # fmt: skip


class Hang(BaseException):
    """A case that took too long; no `Exception`, so that nothing catches it."""


class Outcomes:
    """What became of the cases.

    Attributes:
        counts: right answers, clear errors, and what is wrong: tracebacks, hangs, silent numbers,
            errors without the culprit's name, and code that was let in.
        wrong: a few words on each wrong one.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def case(self, what: str, culprit: str, run: Callable[[], object], value: str = "") -> None:
        """Run one case, whose error has to name the culprit, or its value. ``run`` raises
        AssertionError where it got a number it should not have."""
        shares.say(what)
        try:
            with _limit(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run()
        except LabError as error:
            text = str(error)
            if "\n" in text.strip():
                self._wrong("more than one line", what, text)
            elif culprit and culprit not in text and not (value and value in text):
                self._wrong("unnamed", what, text)
            else:
                self.counts["clear error"] += 1
        except AssertionError as error:
            self._wrong("silent", what, str(error))
        except Hang:
            self._wrong("hang", what, "")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            self._wrong("traceback", what, f"{type(error).__name__} in {place}: {error}")
        else:
            self.counts["right"] += 1
        if Path(MADE).exists():
            Path(MADE).unlink()
            self._wrong("let in", what, "code of the file was run")

    def _wrong(self, kind: str, what: str, text: str) -> None:
        self.counts[kind] += 1
        self.wrong.append(f"{kind}: {what[-400:]}: {text[-400:]}")


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A file with bits changed, cut, doubled or with other bytes put in."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 8])):
        place = generator.randrange(max(1, len(changed)))
        how = generator.randrange(4)
        if how == 0 and changed:
            changed[place % len(changed)] ^= 1 << generator.randrange(8)
        elif how == 1:
            del changed[place:]
        elif how == 2:
            changed[place:place] = generator.randbytes(generator.randrange(1, 30))
        else:
            del changed[place : place + generator.randrange(1, 30)]
    return bytes(changed)


def examples(
    strategy: Any, one: Callable[[Any], None], cases: int, generator: random.Random
) -> None:
    """Give so many of hypothesis's examples to a function."""
    done = 0
    while done < cases:
        count = min(cases - done, 2000)
        seen: list[Any] = []

        keep = _keeper(seen)
        test = hypothesis.given(example=strategy)(keep)
        test = hypothesis.settings(
            max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )(test)  # fmt: skip
        hypothesis.seed(generator.randrange(2**32))(test)()
        for example in seen[:count]:
            one(example)
        done += max(1, len(seen[:count]))


def _keeper(seen: list[Any]) -> Callable[[Any], None]:
    def keep(example: Any) -> None:
        seen.append(example)

    return keep


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
