"""``sclip-lab report``: tables and figures of a store, or of a selection of it."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclip_lab.config import folders
from sclip_lab.core.errors import LabError
from sclip_lab.run.known_words import EMBEDDED

if TYPE_CHECKING:
    import pandas as pd

    from sclip_lab.report.evidence import Evidence

RANDOM = "random weights"
FEW = 100  # photos, below which a reader is told how to get more


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.description = (
        "Write index.html, and every figure and table by itself. Cells of other photos (data set, "
        "split, number) get sections of their own."
    )
    arguments.epilog = (
        "Columns for --where: attention (the label), backbone, dataset, protocol, key, created, "
        "images, done, and every key of the configuration, such as attention.temperature, "
        "backbone.pretrained, dataset.split, dataset.selection or protocol.short_side. A pattern "
        "may hold * and ?, such as attention=csa*."
    )
    arguments.add_argument("store", type=Path, help="the store's folder, such as results/store")
    arguments.add_argument(
        "--where", nargs="+", default=[], metavar="COLUMN=PATTERN,PATTERN",
        help="only cells that fit, such as attention=csa*,vanilla dataset=voc21",
    )  # fmt: skip
    arguments.add_argument(
        "--sweep", metavar="NAME|last",
        help="only the cells of one sweep, under its names: see sclip-lab store sweeps",
    )  # fmt: skip
    arguments.add_argument("--baseline", help="label to compare the others with; default: vanilla")
    arguments.add_argument("--images", type=int, default=4, help="photos in pictures")
    arguments.add_argument("--out", type=Path, default=Path("results/report"))


def run(args: argparse.Namespace) -> int:
    """Write the report, print where it is, and return 0."""
    from sclip_lab.paper import published
    from sclip_lab.report import page, store_report

    part = store_report.read(args.store, conditions(args.where), args.sweep)
    scores = partial(published.scores, elsewhere=False)
    parts_of_page = store_report.sections(part, args.baseline, args.images, scores)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    parts = part.by_photos()
    names = list(parts) if len(parts) > 1 else [""]
    names_of = {name: part.df[name].astype(str).unique() for name in ("dataset", "backbone")}
    data, networks = map(", ".join, names_of.values())
    lead = [store_report.result(p, n) for p, n in zip(parts.values(), names, strict=True)]
    files = page.write(
        [*parts_of_page, page.Section("next", "next steps", notes=_next_steps(part, args))],
        args.out,
        f"Results on {data} with {networks}",
        [*_notes(part.df, args), *_twins(parts.values(), args.store)],
        processes=min(cores, 4),
        lead=lead,
    )
    print(f"{len(files)} files, the report: {files[0]}")
    return 0


def _notes(df: pd.DataFrame, args: argparse.Namespace) -> list[str]:
    """What a reader has to know before the first number: command, date, network, protocol."""
    from sclip_lab.paper import sections
    from sclip_lab.results.store import machines, reading, sweeps

    specs = list(df["spec"].astype(str).unique())
    days = [str(r.get("created", ""))[:10] for r in reading.records(args.store, specs)]
    computed = min(days) if min(days) == max(days) else f"{min(days)} to {max(days)}"
    today = datetime.datetime.now(datetime.UTC).date()
    words = ["sclip-lab", "report", str(args.store)]
    words += [word for part in args.where[:1] for word in ("--where", *args.where) if part]
    words += ["--sweep", args.sweep] if args.sweep else []
    words += ["--baseline", args.baseline] if args.baseline else []
    sweep = [f"sweep: {sweeps.find(args.store, args.sweep)['command']}"] if args.sweep else []
    notes = [*sweep, f"{shlex.join(words)} · {today} · {len(specs)} cells, computed {computed}"]
    weights = {key: _weights(config) for key, config in df.attrs["configs"].items()}
    notes += [f"network: {line}" for line in dict.fromkeys(weights[spec] for spec in specs)]
    protocols = ", ".join(df["protocol"].astype(str).unique())
    notes.append(f"protocol: {protocols} (docs/protocols.md)")
    if EMBEDDED in set(df["backbone"].astype(str)):
        notes.append(sections.EMBEDDED)
    if all(RANDOM in weights[spec] for spec in specs):
        notes.append(sections.RANDOM)
    mixed = machines.note(df)
    return [*notes, *([f"Beware: {mixed}."] if mixed else [])]


def _twins(parts: Iterable[Evidence], store: Path) -> list[str]:
    """One line per part that lists its cells of equal names and settings but different keys, as
    after an edit of a variant's code."""
    from sclip_lab.results.store import reading

    lines = []
    for part in parts:
        names = {str(spec): str(name) for spec, name in part.cells["name"].items()}
        twins = [spec for spec, name in names.items() if name.endswith(f" · {spec[:6]}")]
        if twins:
            days = {r["key"][:12]: str(r["created"])[:16] for r in reading.records(store, twins)}
            twins.sort(key=lambda spec: days[spec])
            listed = ", ".join(
                f"{names[spec]} (of {days[spec].replace('T', ' ')})" for spec in twins
            )
            lines.append(
                "Cells of the same settings whose code, weights or data changed in between: "
                f"{listed}; --where key={twins[-1]}* chooses one"
            )
    return lines


def _weights(config: Mapping[str, Any]) -> str:
    """A network and where its weights are from."""
    name, seed = config.get("backbone.name"), config.get("backbone.seed")
    source, checkpoint = config.get("backbone.pretrained"), config.get("backbone.checkpoint")
    if source:
        return f"{name}, weights {source} of open_clip"
    if checkpoint:
        return f"{name}, weights of {Path(str(checkpoint)).name}"
    return f"{name}, {RANDOM}{'' if seed is None else f' (seed {seed})'}"


def _next_steps(part: Evidence, args: argparse.Namespace) -> list[str]:
    """What a reader may want to do now, as commands."""
    labels = list(dict.fromkeys(part.df["attention"].astype(str)))
    # A plug-in's variants need options that a store does not keep.
    known = folders.names("attention")
    choices = ",".join(label for label in labels if label in known)
    steps = []
    if EMBEDDED in set(part.df["backbone"].astype(str)) and choices:
        steps.append(
            f"The same on CLIP: sclip-lab evaluate -m attention={choices} dataset=voc21 "
            "backbone=ViT-B-16-quickgelu pretrained=openai"
        )
    if len(labels) > 1:
        best = str(part.summary["attention"].iloc[int(part.summary["miou"].argmax())])
        steps.append(
            "Against another baseline: "
            + shlex.join(["sclip-lab", "report", str(args.store), "--baseline", best])
        )
    if part.df.groupby("spec", observed=True)["image"].nunique().min() < FEW:
        steps.append(
            "Narrower intervals: more photos, such as dataset.limit=256; an interval halves with "
            "four times as many."
        )
    store = repr(str(args.store))
    steps.append(f"In Python: import sclip_lab as lab; df = lab.results.load({store})")
    return steps


def conditions(words: Sequence[str]) -> dict[str, list[str]]:
    """Patterns by column."""
    patterns_by_column = {}
    for word in words:
        column, equals, patterns = word.partition("=")
        if not equals or not patterns:
            raise LabError(f"--where {word}: write COLUMN=PATTERN, such as attention=csa*")
        patterns_by_column[column] = patterns.split(",")
    return patterns_by_column
