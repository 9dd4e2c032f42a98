"""Verdicts on the claims of a page: *holds*, *does not hold*, *cannot say*, *no verdict*.

A claim is judged by the paired tests that it rests on. p is adjusted after Holm over all tests of
the claim's question, or over all tests of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sclip_lab.core.errors import unknown
from sclip_lab.paper.cards import trained_to_show
from sclip_lab.paper.claims import LEVEL, Claim, Comparison
from sclip_lab.results.statistics import multiple
from sclip_lab.results.statistics.intervals import FEWEST_PHOTOS

HOLDS, FAILS, OPEN, NONE = "holds", "does not hold", "cannot say", "no verdict"
TESTED, MADE = "tested", "made to"
CANNOT, REPEATS = "cannot be tested here", "repeats a comparison"
FAMILIES = ("claim", "page")
RULE = (
    "A claim holds or does not hold where the paired test over photos is sure of it at 5 %, with p "
    "adjusted after Holm for all comparisons of the claim (or of the page, with --family page); "
    f"else the data cannot say. There is no verdict on fewer than {FEWEST_PHOTOS} photos, for "
    "random weights, and where the higher score is not surely above what needs no network."
)
LEGEND = (
    "Made to: the network was trained until the claim held (its model card lists these), so that "
    "it holds is no evidence. Published: whether a tested claim agrees with what SCLIP's authors, "
    "or notes about their paper, claim, or departs from it; the number is the section of "
    "docs/field.md that has their number and says of which kind its source is. Empty: no such "
    "claim is known."
)


@dataclass(frozen=True)
class Verdict:
    """One claim, judged.

    Attributes:
        claim: the claim. answer: HOLDS, FAILS, OPEN or NONE. why: the numbers, in words.
        standing: TESTED, MADE (the network was trained to show it), CANNOT, or REPEATS (an earlier
            claim of the page rests on the same comparison).
    """

    claim: Claim
    answer: str
    standing: str
    why: str

    @property
    def cells(self) -> dict[str, str]:
        """What tables show of the verdict, by column."""
        claim = self.claim
        return {"study": claim.study, "setting": claim.setting, "claim": claim.text,
                "verdict": self.answer, "standing": self.standing,
                "published": self.beside_published, "why": self.why}  # fmt: skip

    @property
    def departs(self) -> bool:
        """Whether the results surely contradict a published claim."""
        return self.standing == TESTED and bool(self.claim.published) and self.answer == FAILS

    @property
    def beside_published(self) -> str:
        """How the verdict stands to the published claim: "departs (1.6)", "agrees (1.6)", "made to
        (1.6)", "as above (1.6)" or "open (1.6)"; "" where no such claim is published."""
        if not self.claim.published:
            return ""
        answers = {HOLDS: "agrees", FAILS: "departs"} if self.standing == TESTED else {}
        standings = {MADE: MADE, REPEATS: "as above"}
        word = standings.get(self.standing) or answers.get(self.answer, "open")
        return f"{word} ({self.claim.published})"


def judge(claims: Sequence[Claim], family: str = "claim") -> list[Verdict]:
    """Verdicts on all claims whose sides can differ, in order.

    Args:
        claims: of one page.
        family: "claim": p is adjusted over the tests of each claim's question; "page": over all
            tests of the page, each counted once.

    Raises:
        LabError: an unknown family.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    claims = [claim for claim in claims if not claim.same]
    tests = [test for c in claims if not c.no_verdict for test in (*c.tests, *c.family)]
    over_page = _adjusted(tests) if family == "page" else None
    first: dict[frozenset[tuple[str, ...]], Verdict] = {}
    verdicts = []
    for claim in claims:
        compared = frozenset(test.key for test in claim.tests)
        verdict = _judged(claim, over_page)
        if compared and not claim.no_verdict:
            earlier = first.setdefault(compared, verdict)
            if earlier is not verdict:
                why = f"the same comparison as {earlier.claim.name}"
                if earlier.claim.setting != claim.setting:
                    why += f" ({earlier.claim.setting})"
                verdict = Verdict(claim, _repeated(earlier, claim, verdict), REPEATS, why)
        verdicts.append(verdict)
    return verdicts


def _repeated(earlier: Verdict, claim: Claim, alone: Verdict) -> str:
    """The answer of a claim that repeats the comparisons of an earlier one: the same answer, or the
    opposite one where a single comparison is claimed the other way round."""
    sides = [{c.key: c.supports <= c.refutes for c in one.tests} for one in (earlier.claim, claim)]
    if sides[0] == sides[1]:
        return earlier.answer
    opposite = {HOLDS: FAILS, FAILS: HOLDS}
    return opposite.get(earlier.answer, OPEN) if len(sides[0]) == 1 else alone.answer


def _judged(claim: Claim, over_page: dict[tuple[str, ...], float] | None) -> Verdict:
    if claim.no_verdict:
        why = f"{claim.facts}; {claim.no_verdict}" if claim.facts else claim.no_verdict
        return Verdict(claim, NONE, CANNOT, why)
    adjusted = over_page or _adjusted([*claim.tests, *claim.family])
    sure = [adjusted[test.key] < LEVEL for test in claim.tests]
    won = sum(
        s and test.supports <= test.refutes for s, test in zip(sure, claim.tests, strict=True)
    )
    lost = sum(sure) - won
    answer = FAILS if lost else HOLDS if won == len(sure) else OPEN
    counted = claim.counted.format(won=won, lost=lost, all=len(sure))
    p = p_in_words(adjusted[claim.tests[claim.shown].key], len(adjusted))
    is_made = bool(claim.backbones) and all(
        claim.name in trained_to_show(name) for name in claim.backbones
    )
    return Verdict(claim, answer, MADE if is_made else TESTED, f"{counted}{claim.facts}, {p}")


def _adjusted(tests: Sequence[Comparison]) -> dict[tuple[str, ...], float]:
    """Key -> p, adjusted after Holm over all tests with different keys."""
    p = {test.key: test.p for test in tests}
    return dict(zip(p, map(float, multiple.holm(list(p.values()))), strict=True))


def p_in_words(p: float, tests: int = 1) -> str:
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{text} (Holm, {tests} comparisons)" if tests > 1 else text


# ---------------------------------------------------------------- many verdicts in words


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many claims there are of each standing, in a sentence."""
    by_standing = {name: [v for v in verdicts if v.standing == name]
                   for name in (TESTED, MADE, CANNOT, REPEATS)}  # fmt: skip
    tested = [v.answer for v in by_standing[TESTED]]
    held = [v.answer for v in by_standing[MADE]].count(HOLDS)
    noun = "claim" if len(verdicts) == 1 else "claims"
    return (
        f"{len(verdicts)} {noun}: {len(tested)} tested ({tested.count(HOLDS)} hold, "
        f"{tested.count(FAILS)} do not hold, {tested.count(OPEN)} cannot be decided), "
        f"{len(by_standing[MADE])} the network was made to show ({held} hold), "
        f"{len(by_standing[CANNOT])} cannot be tested here, "
        f"{len(by_standing[REPEATS])} repeat a comparison."
    )


def published(verdicts: Sequence[Verdict]) -> str:
    """What became of published claims, in a sentence."""
    tested = [v for v in verdicts if v.standing == TESTED and v.claim.published]
    if not tested:
        return "No published claim could be tested."
    departing = [
        f"{v.claim.text} ({v.claim.setting})" if v.claim.setting else v.claim.text
        for v in tested
        if v.departs
    ]
    agree = sum(v.answer == HOLDS for v in tested)
    text = f"{len(tested)} published claims could be tested: {agree} agree, {len(departing)} depart"
    return f"{text} ({'; '.join(departing)})." if departing else f"{text}."


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per verdict: study, setting, claim, verdict, standing, published, why."""
    columns = ["study", "setting", "claim", "verdict", "standing", "published", "why"]
    return pd.DataFrame([verdict.cells for verdict in verdicts], columns=columns)
