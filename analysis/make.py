"""Draw every table and figure of a store: python analysis/make.py --results STORE --out DIR"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab import results
from sclip_lab.errors import LabError
from sclip_lab.report import figures, tables
from sclip_lab.results import panels, paper


def drawn(
    df: pd.DataFrame, pictures: list[panels.Panel], measured: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """The figures this store has data for, by file name."""
    yield "bars", figures.bars(df)
    yield "per_class", figures.per_class(df)
    if pictures:
        yield "panel", figures.panel(pictures)
    if any(p.points is not None for picture in pictures for p in picture.predictions):
        yield "attention", figures.attention_maps(pictures[:2])
    for parameter in figures.swept(df):
        log = parameter.endswith("temperature")
        yield f"curve_{parameter}", figures.curve(df, parameter, log)
    if len(measured):
        yield "diagnostics", figures.diagnostics(measured)


def make(store: Path, out: Path, baseline: str | None = None, images: int = 4) -> list[Path]:
    """Write tables and figures of ``store`` to ``out``; returns the files.

    Raises:
        LabError: no store, or a baseline that it does not have (did you mean).
    """
    df = results.load(store)
    out.mkdir(parents=True, exist_ok=True)
    table = tables.scores(df, paper.read())
    table.to_csv(out / "scores.csv", index=False)
    texts = {"scores.md": tables.to_markdown(table), "scores.tex": tables.to_latex(table)}
    usual = df["spec"].nunique() > 1 and "vanilla" in set(df["attention"])
    if baseline or usual:
        compared = tables.differences(df, baseline or "vanilla")
        texts["differences.md"] = tables.to_markdown(compared)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    files = [out / "scores.csv", *(out / name for name in texts)]
    for name, figure in drawn(df, panels.load(store)[:images], results.diagnostics(store)):
        for suffix in ("png", "pdf"):
            files.append(out / f"{name}.{suffix}")
            figure.savefig(files[-1], dpi=200)
    return files


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line on stderr if the store cannot be read."""
    parser = argparse.ArgumentParser(description="Tables and figures of a results store.")
    parser.add_argument("--results", type=Path, required=True, help="the store's folder")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    parser.add_argument("--baseline", help="label to compare the others with")
    parser.add_argument("--images", type=int, default=4, help="photos in panel and attention maps")
    options = parser.parse_args(arguments)
    try:
        files = make(options.results, options.out, options.baseline, options.images)
    except (LabError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, files)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
