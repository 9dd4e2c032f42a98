"""Differences between specs, whatever varies: attention, backbone, protocol, readout, a parameter.

Two specs are compared on the same images. Which ones is said by a *choice*: a label ("csa"), the
beginning of a spec's key, or a mapping of columns to values, such as ``{"protocol": "naclip"}``,
``{"protocol.readout._target_": "maskclip"}`` or ``{"attention.temperature": 1.0}``. What a choice
names may differ between the two; everything else has to agree.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.errors import LabError, unknown
from sclip_lab.results import machines, multiple
from sclip_lab.results.intervals import interval, p_value
from sclip_lab.results.permutation import permutation_p
from sclip_lab.results.resampling import Scored
from sclip_lab.results.scores import spec_rows
from sclip_lab.results.uncertainty import Resampled, check, resampled

Choice = str | Mapping[str, Any]
GROUPS = ("attention", "backbone", "protocol", "dataset")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows of a table of specs that a choice names, and the columns in which others may differ."""

    rows: pd.DataFrame
    free: frozenset[str]


def difference(
    df: pd.DataFrame,
    a: Choice,
    b: Choice,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Is ``a`` better than ``b``, and by how much: score(a) - score(b) on the same images.

    Args:
        df: from `load`.
        a, b: choices, see the module. They are compared wherever both occur with everything else
            equal.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        One row per pair: a, b (what tells them apart), spec_a, spec_b, backbone, dataset,
        protocol ("x, y" where they differ), difference, low, high (`intervals.corrected`), p
        (two-sided, of the same), p_permutation (`permutation_p`), images. NaN where a score is.

    Raises:
        LabError: for an unknown or ambiguous name, or specs seen on different images.
    """
    check(statistic, n, level)
    table = spec_rows(df)
    pairs = _pairs(table, choose(table, a), choose(table, b), a, b)
    return _compared(df, table, pairs, statistic, n, level, seed, permuted=True)


def differences(
    df: pd.DataFrame,
    baseline: Choice = "vanilla",
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every spec against its baseline, the spec that the choice names and that is else equal.

    Args:
        df: from `load`.
        baseline: a choice, see the module.
        statistic, n, level, seed: as in `bootstrap`.

    Returns:
        The columns of `difference`, then p_holm and p_max_t: p adjusted for all differences of
        one data set, see `sclip_lab.results.multiple`. ``attrs["left_out"]`` lists the specs that
        have no baseline.

    Raises:
        LabError: an unknown baseline, one that several specs are, or nothing to compare with it.
    """
    check(statistic, n, level)
    table = spec_rows(df)
    chosen = choose(table, baseline)
    fixed = [c for c in _described(table) if c not in chosen.free]
    starts: dict[tuple[Any, ...], list[str]] = {}
    for spec, key in zip(chosen.rows["spec"], _keys(chosen.rows, fixed), strict=True):
        starts.setdefault(key, []).append(str(spec))
    pairs, left_out = [], []
    others = table[~table["spec"].isin(chosen.rows["spec"])]
    for spec, key in zip(others["spec"], _keys(others, fixed), strict=True):
        found = starts.get(key, [])
        if len(found) > 1:
            raise LabError(
                f"baseline {_said(baseline)} is {len(found)} specs ({', '.join(found)}) that "
                f"{spec} could be compared with; name what tells them apart"
            )
        pairs += [(str(spec), start) for start in found]
        left_out += [] if found else [str(spec)]
    if not pairs:
        raise LabError(
            f"nothing to compare with {_said(baseline)}: no other spec is equal in "
            f"{', '.join(fixed)}"
        )
    compared = _compared(df, table, pairs, statistic, n, level, seed, permuted=True, family=True)
    compared.attrs["left_out"] = left_out
    return compared


def all_pairs(
    df: pd.DataFrame,
    statistic: str = "miou",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every pair of specs of a data set that were evaluated on the same images.

    Returns:
        The columns of `difference` but p_permutation, and p_bh: p adjusted after Benjamini and
        Hochberg for all pairs of the data set. The better one is ``a``.

    Raises:
        LabError: no two specs of the same images.
    """
    check(statistic, n, level)
    table = spec_rows(df)
    groups = list(resampled(df, statistic, n, seed))
    pairs = []
    for group in groups:
        order = sorted(range(len(group.specs)), key=lambda k: -group.scores[k].estimate)
        named = [group.specs[k] for k in order]
        pairs += list(itertools.combinations(named, 2))
    if not pairs:
        raise LabError("no two specs of one data set were evaluated on the same images")
    compared = _compared(df, table, pairs, statistic, n, level, seed, groups=groups)
    by = compared.groupby("dataset", sort=False)["p"]
    compared["p_bh"] = by.transform(lambda p: multiple.benjamini_hochberg(p.to_numpy()))
    return compared


def _compared(
    df: pd.DataFrame,
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    statistic: str,
    n: int,
    level: float,
    seed: int,
    *,
    permuted: bool = False,
    family: bool = False,
    groups: Sequence[Resampled] | None = None,
) -> pd.DataFrame:
    specs = {spec for pair in pairs for spec in pair}
    machines.warn(df, specs)
    if groups is None:
        wanted = df[df["spec"].isin(specs)]
        groups = list(resampled(wanted, statistic, n, seed))
    place = {spec: (g, k) for g, group in enumerate(groups) for k, spec in enumerate(group.specs)}
    facts = {str(row["spec"]): row for _, row in table.iterrows()}
    rows, gaps = [], []
    for first, second in pairs:
        (g, k), (other, m) = place[first], place[second]
        one, two = facts[first], facts[second]
        a, b = names(one, two)
        if g != other:
            raise LabError(f"'{a}' and '{b}' were not evaluated on the same images: no pairs")
        group = groups[g]
        gap = group.scores[k] - group.scores[m]
        gaps.append((g, gap))
        low, high = interval(gap, level)
        row: dict[str, Any] = {"a": a, "b": b, "spec_a": first, "spec_b": second}
        for column in GROUPS[1:]:
            row[column] = ", ".join(dict.fromkeys([str(one[column]), str(two[column])]))
        row |= {"difference": gap.estimate, "low": low, "high": high, "p": p_value(gap)}
        if permuted:
            both = (group.samples[k], group.samples[m])
            row["p_permutation"] = permutation_p([both], len(both[0].photos), statistic, n, seed)
        rows.append(row | {"images": len(group.samples[k].photos)})
    compared = pd.DataFrame(rows)
    if family:
        compared["p_holm"], compared["p_max_t"] = _families(compared, gaps)
    compared.attrs["level"] = level
    return compared


def _families(
    compared: pd.DataFrame, gaps: Sequence[tuple[int, Scored]]
) -> tuple[pd.Series, pd.Series]:
    """Holm over the differences of a data set, and max-T over those of the same images, which
    are the same family unless specs of one data set saw different images."""
    by = compared.groupby("dataset", sort=False)["p"]
    adjusted = by.transform(lambda p: multiple.holm(p.to_numpy()))
    largest = np.full(len(gaps), np.nan)
    for group in {g for g, _ in gaps}:
        mine = [k for k, (g, _) in enumerate(gaps) if g == group]
        largest[mine] = multiple.max_t([gaps[k][1] for k in mine])
    return adjusted, pd.Series(largest, compared.index)


def choose(table: pd.DataFrame, choice: Choice) -> Chosen:
    """The specs that a choice names.

    Args:
        table: from `scores.spec_rows`.

    Raises:
        LabError: an unknown label, key, column or value; the beginning of several keys.
    """
    if isinstance(choice, str):
        rows = table[table["attention"] == choice]
        if len(rows):
            return Chosen(rows, _freed(table, ["attention"]))
        return Chosen(_by_key(table, choice), frozenset(_described(table)) - {"dataset"})
    if not choice:
        raise LabError("an empty choice names no spec; give a label, or columns with values")
    rows, known = table, [c for c in table if c in GROUPS or "." in str(c)]
    for column, value in choice.items():
        if column not in known:
            raise unknown("column", column, map(str, known))
        kept = rows[[_is(found, value) for found in rows[column]]]
        if kept.empty:
            present = [str(found) for found in rows[column].drop_duplicates()]
            raise unknown(column, str(value), present)
        rows = kept
    return Chosen(rows, _freed(table, [c for c in choice if c != "dataset"]))


def names(one: pd.Series, two: pd.Series) -> tuple[str, str]:
    """Names of two specs: their labels, and of the rest what tells them apart."""
    first, second = [str(one["attention"])], [str(two["attention"])]
    for group in GROUPS:
        columns = [group] if group != "attention" else []
        if str(one[group]) == str(two[group]):
            columns = [c for c in one.index if str(c).startswith(f"{group}.")]
        targets = [c for c in columns if str(c).endswith("._target_") and not _is(one[c], two[c])]
        for column in targets or columns:
            if not _is(one[column], two[column]) and not _is_digest(column):
                first.append(_value(column, one[column]))
                second.append(_value(column, two[column]))
    return " · ".join(first), " · ".join(second)


def _value(column: str, value: Any) -> str:
    leaf = column.split(".")[-1]
    if _absent(value):
        text = "none"
    else:
        text = f"{value:g}" if isinstance(value, int | float) else str(value)
    if leaf == "_target_":
        return text.split(".")[-1]
    return text if column in GROUPS else f"{leaf} {text}"


def _is_digest(column: str) -> bool:
    return column.split(".")[-1].endswith("digest")


def _described(table: pd.DataFrame) -> list[str]:
    """The columns in which two specs can differ, without digests, which follow from the others
    but for a data set's, where equal names may be different photos."""
    return [c for c in map(str, table) if c in GROUPS or ("." in c and not _is_digest(c))]


def _freed(table: pd.DataFrame, columns: Sequence[str]) -> frozenset[str]:
    """The columns named, all below them, and the label that changes with them."""
    free = set()
    for column in columns:
        stem = column.removesuffix("._target_")
        free |= {c for c in map(str, table) if c == stem or c.startswith(f"{stem}.")}
        group = column.split(".")[0]
        free |= {group} if group != "dataset" else set()
    return frozenset(free)


def _keys(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return [
        tuple(None if _absent(value) else value for value in row)
        for row in rows[list(columns)].itertuples(index=False, name=None)
    ]


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _is(found: Any, wanted: Any) -> bool:
    """Whether a column's value is the one wanted: numbers by value, a target also by its last
    name, lists by their JSON."""
    if _absent(found) or _absent(wanted):
        return _absent(found) and _absent(wanted)
    if isinstance(found, str):
        text = wanted if isinstance(wanted, str) else json.dumps(wanted)
        return found == text or found.endswith(f".{text}")
    return bool(found == wanted)


def _said(choice: Choice) -> str:
    if isinstance(choice, str):
        return f"'{choice}'"
    return ", ".join(f"{column}={value}" for column, value in choice.items())


def _by_key(table: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = table[[bool(name) and (s.startswith(name) or name.startswith(s)) for s in table["spec"]]]
    if len(rows) > 1:
        raise LabError(f"spec key '{name}' begins several: {', '.join(rows['spec'])}")
    if not len(rows):
        raise unknown("attention label or spec", name, [*table["attention"], *table["spec"]])
    return rows


def _pairs(
    table: pd.DataFrame, left: Chosen, right: Chosen, a: Choice, b: Choice
) -> list[tuple[str, str]]:
    if len(left.rows) == len(right.rows) == 1:
        return [(left.rows["spec"].iloc[0], right.rows["spec"].iloc[0])]
    fixed = [c for c in _described(table) if c not in left.free | right.free]
    others: dict[tuple[Any, ...], list[str]] = {}
    for spec, key in zip(right.rows["spec"], _keys(right.rows, fixed), strict=True):
        others.setdefault(key, []).append(str(spec))
    pairs = [
        (str(spec), other)
        for spec, key in zip(left.rows["spec"], _keys(left.rows, fixed), strict=True)
        for other in others.get(key, [])
        if other != spec
    ]
    if not pairs:
        raise LabError(
            f"{_said(a)} and {_said(b)} share no spec that is equal in {', '.join(fixed)}"
        )
    if any(len({p[side] for p in pairs}) < len(pairs) for side in (0, 1)):
        known = ", ".join(dict.fromkeys([*left.rows["spec"], *right.rows["spec"]]))
        raise LabError(
            f"{_said(a)} or {_said(b)} names several specs; give the keys of two ({known})"
        )
    return pairs
