"""Says on which processors the cells of a table were computed.

A key promises equal numbers on one machine. Kernels for other instruction sets round otherwise and
move a few labels in a hundred thousand (docs/identity.md), so a comparison warns where its cells
come from different processors.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd


def processor(record: Mapping[str, Any]) -> str:
    """The GPU or instruction set on which a cell was begun; "" where its record names none."""
    provenance = record.get("provenance", {})
    return str(provenance.get("gpu") or provenance.get("processor") or "")


def note(df: pd.DataFrame, specs: Collection[str] | None = None) -> str | None:
    """One sentence where cells, or these ``specs``, come from different processors, else None."""
    by_processor: dict[str, list[str]] = {}
    for spec, name in df.attrs.get("processors", {}).items():
        if name and (specs is None or spec in specs):
            by_processor.setdefault(name, []).append(spec)
    if len(by_processor) < 2:
        return None
    parts = [f"{name} ({some(specs, 2)})" for name, specs in by_processor.items()]
    return (
        f"cells were computed with different instruction sets: {'; '.join(parts)}; "
        "these round otherwise, so differences of a few pixels mean nothing"
    )


def warn(df: pd.DataFrame, specs: Collection[str]) -> None:
    """One warning where the cells that are compared come from different processors."""
    text = note(df, specs)
    if text is not None:
        warnings.warn(text, stacklevel=4)


def some(names: Sequence[str], shown: int = 3) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
