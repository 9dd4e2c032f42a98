"""Claims as functions of results: *holds*, *does not hold*, *cannot say*, by the paired test.

A claim about several differences is judged at the level of the whole family: intervals are those of
`results.difference`, p values are multiplied by the number of comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sclip_lab.report.found import Found

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot say"
LEVEL = 0.05
RULE = (
    "A claim holds or does not hold where a paired bootstrap over photos is sure of it at 5 %, p "
    "values multiplied by the number of comparisons; else the data cannot say."
)


@dataclass(frozen=True)
class Verdict:
    """One claim, judged.

    Attributes:
        claim: what is claimed, in words. answer: one of HOLDS, FAILS, OPEN.
        why: the numbers, in words. setting: backbone, data set, and how much of it.
    """

    claim: str
    answer: str
    why: str
    setting: str = ""


def higher(found: Found, a: str, b: str, claim: str, least: float = 0.0, tests: int = 1) -> Verdict:
    """Claim: spec ``a`` scores higher than spec ``b``, by at least ``least`` (a fraction).

    Args:
        found: has both. a, b: specs. claim: in words.
        least: smallest difference that counts.
        tests: how many comparisons the claim's family has.
    """
    row = found.difference(a, b)
    sure = min(1.0, row["p"] * tests) < LEVEL
    if row["low"] > least and sure:
        answer = HOLDS
    elif row["high"] < least and (sure or least > 0):
        answer = FAILS
    else:
        answer = OPEN
    return Verdict(claim, answer, told(found, a, b, tests))


def best(found: Found, spec: str, others: Sequence[str], claim: str) -> Verdict:
    """Claim: ``spec`` scores highest. One other that is surely higher refutes it; it holds where
    all others are surely lower."""
    others = [other for other in others if other != spec]
    if not others:
        return nothing(claim, "nothing to compare with")
    rows = [found.difference(spec, other) for other in others]
    sure = [min(1.0, row["p"] * len(rows)) < LEVEL for row in rows]
    rival = max(others, key=lambda other: found.score(other))
    why = told(found, spec, rival, len(rows))
    if any(s and row["difference"] < 0 for s, row in zip(sure, rows, strict=True)):
        return Verdict(claim, FAILS, why)
    won = sum(s and row["difference"] > 0 for s, row in zip(sure, rows, strict=True))
    tail = f"surely above {won} of {len(rows)} others; nearest: {why}"
    return Verdict(claim, HOLDS if won == len(rows) else OPEN, tail)


def alike(found: Found, specs: Sequence[str], other: str, margin: float, claim: str) -> Verdict:
    """Claim: each of ``specs`` scores within ``margin`` (a fraction) of ``other``: equivalence, so
    the whole interval of each difference has to lie within."""
    rows = {spec: found.difference(spec, other) for spec in specs if spec != other}
    if not rows:
        return nothing(claim, "nothing to compare with")
    far = max(rows, key=lambda spec: abs(rows[spec]["difference"]))
    inside = [-margin < row["low"] and row["high"] < margin for row in rows.values()]
    outside = [row["low"] > margin or row["high"] < -margin for row in rows.values()]
    answer = HOLDS if all(inside) else FAILS if any(outside) else OPEN
    why = (
        f"{sum(inside)} of {len(rows)} surely within {100 * margin:g} points, "
        f"{sum(outside)} surely outside; furthest: {told(found, far, other)}"
    )
    return Verdict(claim, answer, why)


def nothing(claim: str, reason: str) -> Verdict:
    """No verdict, and why there is none."""
    return Verdict(claim, OPEN, reason)


def told(found: Found, a: str, b: str, tests: int = 1) -> str:
    """A difference in words: scores, difference with interval, p."""
    row = found.difference(a, b)
    return (
        f"{found.name(a)} {score(found.score(a))} against {found.name(b)} "
        f"{score(found.score(b))}: {100 * row['difference']:+.1f} "
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], {p_value(row['p'], tests)}"
    )


def p_value(p: float, tests: int = 1) -> str:
    adjusted = min(1.0, p * tests)
    text = "p < 0.001" if adjusted < 0.001 else f"p = {adjusted:.3f}"
    return f"{text} ({tests} comparisons)" if tests > 1 else text


def score(fraction: float) -> str:
    """A fraction x100 with one decimal."""
    return f"{100 * fraction:.1f}"


def table(verdicts: Sequence[Verdict], study: str = "") -> pd.DataFrame:
    """One row per verdict: study, setting, claim, verdict, why."""
    return pd.DataFrame(
        [
            {"study": study, "setting": v.setting, "claim": v.claim, "verdict": v.answer}
            | {"why": v.why}
            for v in verdicts
        ],
        columns=["study", "setting", "claim", "verdict", "why"],
    )
