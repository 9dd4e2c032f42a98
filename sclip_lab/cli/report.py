"""``sclip-lab report``: tables and figures of a store, or of a selection of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sclip_lab.core.errors import LabError


def parser(prog: str = "sclip-lab report") -> argparse.ArgumentParser:
    """The arguments of ``sclip-lab report``."""
    made = argparse.ArgumentParser(
        prog=prog, description="Write index.html, and every figure and table by itself."
    )
    made.add_argument("store", type=Path, help="the store's folder, such as results/store")
    made.add_argument(
        "--where", nargs="+", default=[], metavar="COLUMN=PATTERN,PATTERN",
        help="only cells that fit, such as attention=csa*,vanilla dataset=voc21",
    )  # fmt: skip
    made.add_argument("--baseline", help="label to compare the others with; default: vanilla")
    made.add_argument("--images", type=int, default=4, help="photos in pictures")
    made.add_argument("--out", type=Path, default=Path("results/report"))
    return made


def run(args: argparse.Namespace) -> int:
    """0; prints where the report is.

    Raises:
        LabError: no store, nothing selected, or an unknown column, value or baseline.
    """
    from sclip_lab.report import page, store_report
    from sclip_lab.results.store import machines

    part = store_report.found(args.store, conditions(args.where))
    made = store_report.sections(part, args.baseline, args.images)
    notes = [f"store {args.store}", *(f"only {word}" for word in args.where)]
    mixed = machines.note(part.df)
    notes += [f"Beware: {mixed}."] if mixed else []
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    title = f"Results of {args.store.name}"
    files = page.write(made, args.out, title, notes, processes=min(cores, 4))
    print(f"{len(files)} files, the report: {files[0]}")
    return 0


def conditions(words: Sequence[str]) -> dict[str, list[str]]:
    """Patterns by column.

    Raises:
        LabError: a word without "=".
    """
    patterns_by_column = {}
    for word in words:
        column, equals, patterns = word.partition("=")
        if not equals or not patterns:
            raise LabError(f"--where {word}: write COLUMN=PATTERN, such as attention=csa*")
        patterns_by_column[column] = patterns.split(",")
    return patterns_by_column
