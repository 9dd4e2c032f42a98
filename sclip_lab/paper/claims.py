"""Claims about cells: the comparisons that each rests on, or why there can be no verdict on it.

A study makes claims; `sclip_lab.paper.verdicts` judges those of a whole page together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sclip_lab.report.evidence import Evidence
from sclip_lab.results.statistics.intervals import (
    FEWEST_PHOTOS,
    mean_interval,
    mean_p,
    p_value,
)

LEVEL = 0.05
SAME = "both sides give the same counts on every photo"
Pair = tuple[str, str]  # of specs
Names = Mapping[str, str]  # of specs


@dataclass(frozen=True)
class Comparison:
    """The test of one comparison.

    Attributes:
        key: what is compared. Equal for the same counts on the same photos, whatever the cells are
            called, so that no page counts a comparison twice.
        supports: two-sided p where the data lean towards the claim, else 1.
        refutes: two-sided p where the data lean against the claim, else 1.
    """

    key: tuple[str, ...]
    supports: float
    refutes: float

    @classmethod
    def of(cls, key: tuple[str, ...], p: float, supports: bool) -> Comparison:
        """A comparison by its two-sided p, NaN for none, and the side that the data lean to."""
        p = 1.0 if np.isnan(p) else float(p)
        return cls(key, p if supports else 1.0, 1.0 if supports else p)

    @property
    def p(self) -> float:
        return min(self.supports, self.refutes)


@dataclass(frozen=True)
class Claim:
    """A sentence that results can support or refute.

    Attributes:
        text: the sentence. facts: the numbers, in words.
        tests: the claim holds if all of them support it, and does not hold if one refutes it.
        family: further tests of the same question, over which p is adjusted too.
        shown: index of the test whose p is printed behind the facts.
        counted: words before the facts; {won}, {lost} and {all} stand for numbers of tests.
        published: the section of docs/field.md that has the same claim; "" if none has.
        no_verdict: why there can be no verdict, else "".
        same: why the claim's two sides cannot differ, else "".
        study, setting: where on the page the claim stands. backbones: names of its networks.
    """

    text: str
    facts: str
    tests: tuple[Comparison, ...] = ()
    family: tuple[Comparison, ...] = ()
    shown: int = 0
    counted: str = ""
    published: str = ""
    no_verdict: str = ""
    same: str = ""
    study: str = ""
    setting: str = ""
    backbones: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Study and sentence, as model cards list a claim and as its repetitions refer to it."""
        return f"{self.study}: {self.text}"


def missing(text: str, reason: str, published: str = "") -> Claim:
    """A claim that cannot be judged here, for ``reason``."""
    return Claim(text, "", published=published, no_verdict=reason)


def higher(
    evidence: Evidence,
    a: str | None,
    b: str | None,
    text: str,
    family: Sequence[Pair] = (),
    published: str = "",
    names: Names | None = None,
    same: str = SAME,
) -> Claim:
    """Claim: spec ``a`` scores higher than spec ``b``.

    Args:
        a, b: specs; None if not computed. text: the claim in words.
        family: all pairs that are compared for the question, (a, b) among them or not.
        published: see `Claim`. names: see `difference_in_words`.
        same: what to say where both have the same counts.
    """
    if a is None or b is None:
        return missing(text, "not computed", published)
    claim = Claim(text, difference_in_words(evidence, a, b, names), published=published)
    if not differ(evidence, a, b):
        return replace(claim, same=same)
    others = tuple(score_test(evidence, *pair) for pair in family if differ(evidence, *pair))
    return gated(
        evidence, replace(claim, tests=(score_test(evidence, a, b),), family=others), [a, b]
    )


def csa_higher(evidence: Evidence, pairs: Mapping[str, Pair], text: str) -> list[Claim]:
    """One claim for each pair of CSA and vanilla attention, all of one question.

    Args:
        pairs: words that follow ``text`` in the claim -> (spec of CSA, spec of vanilla).
    """
    family = list(pairs.values())
    names = {
        key: name for pair in family for key, name in zip(pair, ("csa", "vanilla"), strict=True)
    }
    return [higher(evidence, *pair, f"{text}: {setting}", family, names=names)
            for setting, pair in pairs.items()]  # fmt: skip


def best(
    evidence: Evidence,
    spec: str,
    others: Sequence[str],
    text: str,
    published: str = "",
    names: Names | None = None,
) -> Claim:
    """Claim: ``spec`` scores higher than all ``others``, without those with the same counts."""
    others = [other for other in others if other != spec and differ(evidence, spec, other)]
    if not others:
        return missing(text, "nothing to compare with", published)
    rival = max(range(len(others)), key=lambda k: evidence.score(others[k]))
    claim = Claim(
        text,
        difference_in_words(evidence, spec, others[rival], names),
        tests=tuple(score_test(evidence, spec, other) for other in others),
        shown=rival,
        counted="surely above {won} of {all} others; nearest: ",
        published=published,
    )
    return gated(evidence, claim, [spec, others[rival]])


def alike(
    evidence: Evidence,
    specs: Sequence[str],
    other: str,
    margin: float,
    text: str,
    published: str = "",
) -> Claim:
    """Claim: each of ``specs`` scores within ``margin`` (a fraction) of ``other``: equivalence.

    A test supports the claim where both one-sided tests at the margins do (Schuirmann, 1987), and
    refutes it where the difference surely exceeds the margin. Where all scores lie below the
    margin, they are alike in any case, so there is no verdict.
    """
    specs = [spec for spec in specs if spec != other]
    if not specs:
        return missing(text, "nothing to compare with", published)
    if max(map(evidence.score, [*specs, other])) < margin:
        return missing(text, f"all scores are below {100 * margin:g} points", published)
    tests, gaps = [], [evidence.comparisons.gap(spec, other) for spec in specs]
    for spec, gap in zip(specs, gaps, strict=True):
        outside = abs(gap.estimate) > margin
        below, above = p_value(gap, margin), p_value(gap, -margin)
        key = ("alike", f"{margin:g}", *sorted(map(evidence.comparisons.counts, (spec, other))))
        nearest = below if gap.estimate > 0 else above
        tests.append(Comparison.of(key, nearest if outside else max(below, above), not outside))
    far = max(range(len(specs)), key=lambda k: abs(gaps[k].estimate))
    claim = Claim(
        text,
        difference_in_words(evidence, specs[far], other),
        tests=tuple(tests),
        shown=far,
        counted=f"{{won}} of {{all}} surely within {100 * margin:g} points, {{lost}} surely "
        "outside; furthest: ",
        published=published,
    )
    return gated(evidence, claim, [specs[far], other])


def mean_difference(
    evidence: Evidence, measure: str, a: str, b: str, sign: int, text: str
) -> Claim:
    """Claim: the mean of a diagnostic is higher (``sign`` 1) or lower (-1) on spec ``a`` than on
    ``b``. Paired over the photos that both have: `intervals.mean_p`."""
    from sclip_lab.diagnostics import MEASURES  # imports torch, which most claims never need

    grid = evidence.values(measure)
    if not {a, b} <= set(grid):
        return missing(text, f"{measure} was not measured")
    grid = grid[[a, b]].dropna()
    gaps = (grid[a] - grid[b]).to_numpy()
    means = f"{grid[a].mean():.2f} against {grid[b].mean():.2f}: {gaps.mean():+.2f}"
    facts = f"{measure.replace('_', ' ')} {means}"
    if len(gaps) < FEWEST_PHOTOS:
        claim = gated(evidence, Claim(text, facts), [a, b], floor=False)
        return replace(
            claim, no_verdict=claim.no_verdict or few_photos(len(gaps), whole(evidence, a))
        )
    key = ("measure", measure, *sorted(map(evidence.comparisons.counts, (a, b))))
    test = Comparison.of(key, mean_p(gaps), gaps.mean() * sign > 0)
    scale, bounds = MEASURES.get(measure), (-np.inf, np.inf)
    if scale and scale.low is not None and scale.high is not None:
        bounds = scale.low - scale.high, scale.high - scale.low
    low, high = mean_interval(gaps, 1 - LEVEL, bounds)
    facts += "" if np.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
    facts += f" on {len(gaps)} photos"
    return gated(evidence, Claim(text, facts, (test,)), [a, b], floor=False)


# ---------------------------------------------------------------- what a comparison says


def score_test(evidence: Evidence, a: str, b: str) -> Comparison:
    """Test of "spec a scores higher than spec b" on the same photos."""
    row = evidence.difference(a, b)
    key = ("score", *sorted(map(evidence.comparisons.counts, (a, b))))
    p = row["p"] if row["difference"] else 1.0
    return Comparison.of(key, p, row["difference"] > 0)


def differ(evidence: Evidence, a: str, b: str) -> bool:
    """Whether the counts of two specs differ on any photo."""
    return evidence.comparisons.counts(a) != evidence.comparisons.counts(b)


def difference_in_words(evidence: Evidence, a: str, b: str, names: Names | None = None) -> str:
    """Scores and their difference, with its interval where there is one.

    Args:
        names: short names of specs, where the claim says the rest; by default `Evidence.name`.
    """
    row = evidence.difference(a, b)
    first, second = (
        f"{(names or {}).get(spec) or evidence.name(spec)} at {100 * evidence.score(spec):.1f}"
        for spec in (a, b)
    )
    text = f"{first} against {second}: {100 * row['difference']:+.1f}"
    if np.isnan(row["low"]):
        return text
    return f"{text} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def gains_in_words(evidence: Evidence, grid: Mapping[str, Mapping[str, str]], csa: str) -> str:
    """What ``csa`` gains over vanilla in each group that has both: "B/16 +30.1, L/14 -2.0".

    Args:
        grid: group -> variant -> spec.
    """
    return ", ".join(
        f"{name} {100 * evidence.difference(cells[csa], cells['vanilla'])['difference']:+.1f}"
        for name, cells in grid.items()
        if {csa, "vanilla"} <= set(cells)
    )


# ---------------------------------------------------------------- what forbids a verdict


def gated(evidence: Evidence, claim: Claim, specs: Sequence[str], floor: bool = True) -> Claim:
    """The claim with its networks, and with a reason if these specs allow no verdict on it.

    Args:
        specs: the specs whose scores the claim is about.
        floor: whether the best of these specs has to be surely above `results.floors`.
    """
    backbones = frozenset(str(evidence.cells["backbone"].loc[spec]) for spec in specs)
    seeds = [seed for spec in specs if (seed := random_seed(evidence, spec)) is not None]
    photos = evidence.comparisons.photos(specs[0])
    reason = ""
    if seeds:
        reason = f"weights are random (seed {seeds[0]}) and say nothing of trained ones"
    elif photos < FEWEST_PHOTOS:
        reason = few_photos(photos, whole(evidence, specs[0]))
    elif floor:
        top = max(specs, key=evidence.score)
        name, score, p = evidence.comparisons.above_floor(top)
        if not p < LEVEL:
            reason = (
                f"{100 * evidence.score(top):.1f} is not surely above {100 * score:.1f}, what "
                f"needs no network: {name}"
            )
    return replace(claim, backbones=backbones, no_verdict=reason)


def few_photos(photos: int, of: int | None) -> str:
    """Why so few photos allow no verdict: "2 of 64 photos; a verdict needs 10"."""
    count = f"{photos} of {of}" if of else str(photos)
    return f"{count} photos; a verdict needs {FEWEST_PHOTOS}"


def whole(evidence: Evidence, spec: str) -> int | None:
    """How many photos a spec's data set has."""
    dataset = str(evidence.cells["dataset"].loc[spec])
    return evidence.whole.get(dataset) or evidence.df.attrs.get("of", {}).get(spec)


def random_seed(evidence: Evidence, spec: str) -> int | None:
    """The seed of a network's random weights; None where they were trained."""
    seed = evidence.cells.loc[spec].get("backbone.seed")
    return None if pd.isna(seed) else int(str(seed).partition(".")[0])
