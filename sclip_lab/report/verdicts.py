"""Claims as functions of results: *holds*, *does not hold*, *cannot say*, by the paired test.

A claim about several differences is judged over the whole family: p values are adjusted after Holm
(`results.multiple`); intervals are those of `results.difference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sclip_lab.report.found import Found
from sclip_lab.results.statistics import multiple

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot say"
AGREES, DEPARTS = "agrees", "departs"
LEVEL = 0.05
MEASURED = 5  # photos below which a bootstrap over photos says nothing
RULE = (
    "A claim holds or does not hold where the paired test over photos is sure of it at 5 %, with p "
    "adjusted after Holm for all comparisons of the claim; else the data cannot say."
)
LEGEND = (
    "Published: whether the result agrees with what SCLIP's authors or notes about their paper "
    "claim, or departs from it; the number is the section of docs/field.md that has their number "
    "and says of which kind its source is. Empty: no such claim is known."
)
Pair = tuple[str, str]
Names = Mapping[str, str]  # of specs


@dataclass(frozen=True)
class Verdict:
    """One claim, judged.

    Attributes:
        claim: what is claimed, in words. answer: one of HOLDS, FAILS, OPEN.
        why: the numbers, in words. setting: backbone, data set, and how much of it.
        published: the section of docs/field.md where the same is claimed; "" where it is not.
    """

    claim: str
    answer: str
    why: str
    setting: str = ""
    published: str = ""

    @property
    def mark(self) -> str:
        """The answer as a page's style names it."""
        return {HOLDS: "holds", FAILS: "fails"}.get(self.answer, "open")

    @property
    def departs(self) -> bool:
        """Whether it is surely other than published."""
        return bool(self.published) and self.answer == FAILS

    @property
    def beside_published(self) -> str:
        """ "departs (1.6)", "agrees (1.6)", "open (1.6)", or "" where nothing is published."""
        known = {HOLDS: AGREES, FAILS: DEPARTS}.get(self.answer, "open")
        return f"{known} ({self.published})" if self.published else ""


def higher(
    found: Found,
    a: str,
    b: str,
    claim: str,
    family: Sequence[Pair] = (),
    published: str = "",
    names: Names | None = None,
) -> Verdict:
    """Claim: spec ``a`` scores higher than spec ``b``.

    Args:
        found: has both. a, b: specs. claim: in words.
        family: all pairs that are compared for the question, (a, b) among them or not.
        published: see `Verdict`. names: see `told`.
    """
    row = found.difference(a, b)
    p, tests = _adjusted(found, (a, b), family)
    sure = p < LEVEL
    answer = HOLDS if sure and row["low"] > 0 else FAILS if sure and row["high"] < 0 else OPEN
    return Verdict(claim, answer, told(found, a, b, p, tests, names), published=published)


def best(
    found: Found,
    spec: str,
    others: Sequence[str],
    claim: str,
    published: str = "",
    names: Names | None = None,
) -> Verdict:
    """Claim: ``spec`` scores highest. One other that is surely higher refutes it; it holds where
    all others are surely lower. The rest as for `higher`."""
    others = [other for other in others if other != spec]
    if not others:
        return nothing(claim, "nothing to compare with", published)
    rows = [found.difference(spec, other) for other in others]
    adjusted = multiple.holm([row["p"] for row in rows])
    rival = max(range(len(others)), key=lambda k: found.score(others[k]))
    why = told(found, spec, others[rival], float(adjusted[rival]), len(rows), names)
    gaps = [(row["difference"], p < LEVEL) for row, p in zip(rows, adjusted, strict=True)]
    if any(sure and gap < 0 for gap, sure in gaps):
        return Verdict(claim, FAILS, why, published=published)
    won = sum(sure and gap > 0 for gap, sure in gaps)
    tail = f"surely above {won} of {len(rows)} others; nearest: {why}"
    return Verdict(claim, HOLDS if won == len(rows) else OPEN, tail, published=published)


def alike(
    found: Found, specs: Sequence[str], other: str, margin: float, claim: str, published: str = ""
) -> Verdict:
    """Claim: each of ``specs`` scores within ``margin`` (a fraction) of ``other``: equivalence.

    It holds where the whole interval of each difference lies within. It is refuted where one
    lies outside, at the level of Holm's first step, for any of the family would do. Scores that
    all lie below the margin are alike whatever is measured, and say nothing.
    """
    rows = {spec: found.difference(spec, other) for spec in specs if spec != other}
    if not rows:
        return nothing(claim, "nothing to compare with", published)
    if max(map(found.score, [*rows, other])) < margin:
        return nothing(claim, f"all scores are below {100 * margin:g} points", published)
    far = max(rows, key=lambda spec: abs(rows[spec]["difference"]))
    wide = [found.difference(spec, other, 1 - LEVEL / len(rows)) for spec in rows]
    inside = [-margin < row["low"] and row["high"] < margin for row in rows.values()]
    outside = [row["low"] > margin or row["high"] < -margin for row in wide]
    answer = HOLDS if all(inside) else FAILS if any(outside) else OPEN
    why = (
        f"{sum(inside)} of {len(rows)} surely within {100 * margin:g} points, "
        f"{sum(outside)} surely outside; furthest: {told(found, far, other)}"
    )
    return Verdict(claim, answer, why, published=published)


def nothing(claim: str, reason: str, published: str = "") -> Verdict:
    """No verdict, and why there is none."""
    return Verdict(claim, OPEN, reason, published=published)


def told(
    found: Found,
    a: str,
    b: str,
    p: float | None = None,
    tests: int = 1,
    names: Names | None = None,
) -> str:
    """A difference in words: scores, difference with interval, p (adjusted for ``tests``).

    Args:
        names: what specs are called here, where the claim says the rest; else `Found.name`.
    """
    row = found.difference(a, b)
    first, second = (
        f"{(names or {}).get(spec) or found.name(spec)} at {score(found.score(spec))}"
        for spec in (a, b)
    )
    return (
        f"{first} against {second}: {100 * row['difference']:+.1f} "
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], "
        f"{p_value(row['p'] if p is None else p, tests)}"
    )


def p_value(p: float, tests: int = 1) -> str:
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{text} (Holm, {tests} comparisons)" if tests > 1 else text


def score(fraction: float) -> str:
    """A fraction x100 with one decimal."""
    return f"{100 * fraction:.1f}"


def table(verdicts: Sequence[Verdict], study: str = "") -> pd.DataFrame:
    """One row per verdict: study, setting, claim, verdict, published, why."""
    return pd.DataFrame(
        [
            {"study": study, "setting": v.setting, "claim": v.claim, "verdict": v.answer}
            | {"published": v.beside_published, "why": v.why}
            for v in verdicts
        ],
        columns=["study", "setting", "claim", "verdict", "published", "why"],
    )


def _adjusted(found: Found, pair: Pair, family: Sequence[Pair]) -> tuple[float, int]:
    """p of one pair adjusted for its family, and how many pairs that has."""
    pairs = list(dict.fromkeys([pair, *family]))
    return float(multiple.holm([found.difference(*one)["p"] for one in pairs])[0]), len(pairs)
