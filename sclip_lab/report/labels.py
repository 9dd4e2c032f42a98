"""Short names for specs: the variant, and of the rest only what tells the rows apart."""

from __future__ import annotations

import re

import pandas as pd


def labels(table: pd.DataFrame) -> list[str]:
    """One name per row of a `results.summary`, unique where the columns allow it."""
    columns = ["attention", *(c for c in ("backbone", "protocol") if table[c].nunique() > 1)]
    names = [" · ".join(map(str, row)) for row in table[columns].itertuples(index=False)]
    for column in (c for c in table if "." in str(c) and not str(c).startswith("attention.")):
        taken = pd.Series(names).duplicated(keep=False).to_numpy()
        if not taken.any() or table[column].nunique(dropna=False) < 2:
            continue
        values = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in table[column]]
        names = [
            f"{name} · {str(column).split('.')[-1]} {value}" if clash else name
            for name, value, clash in zip(names, values, taken, strict=True)
        ]
    return names


def without(label: str, parameter: str) -> str:
    """A label without one parameter: "csa" of "csa(temperature=2.0)" and "temperature"."""
    rest = re.sub(rf"([(,]\s*){re.escape(parameter)}=[^,()\[\]]*", r"\1", label)
    rest = re.sub(r",\s*(?=[,)])", "", rest)
    return re.sub(r"\(\s*,?\s*", "(", rest).replace("()", "")
