"""``sclip-lab tune``: search parameters on the train split, report once on the test split."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.description = (
        "Search parameters of one cell by Optuna's TPE on the train split, and compare the best "
        "trial with the default once on the test split. Keys are those of `sclip-lab evaluate`: "
        "KEY=LOW..HIGH and KEY=VALUE,VALUE are searched, KEY=VALUE is fixed."
    )
    add = arguments.add_argument
    add("words", nargs="+", metavar="KEY=VALUE")
    add("--trials", type=int, default=30)
    add("--batch", type=int, default=10, help="trials that are evaluated together")
    add("--seed", type=int, default=0, help="of the proposals")
    add("--photos", type=int, default=256, help="of the train split, at most")
    add(
        "--train", nargs="+", default=["dataset.split=train"], metavar="KEY=VALUE",
        help="what makes the train split; a data set without one is divided by name digests",
    )  # fmt: skip
    add("--out", type=Path, default=Path("results/tune"), help="the report's folder")


def run(args: argparse.Namespace) -> int:
    """Write the report, and cells into ``<out>/store`` unless paths.store is typed; return 0."""
    from sclip_lab.config import plugins
    from sclip_lab.report import page
    from sclip_lab.run import tune

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    plugins.enter(args.words)
    words = list(args.words)
    if not any(word.startswith("paths.store=") for word in words):
        words.append(f"paths.store={args.out / 'store'}")
    search = tune.search(words, args.trials, args.batch, args.seed, args.photos, args.train)
    options = ["--trials", str(args.trials), "--seed", str(args.seed)]
    options += ["--train", *args.train] if args.train else []
    notes = [shlex.join(["sclip-lab", "tune", *args.words, *options])]
    title = f"Search on {search.default.dataset.name}: {search.default.label}"
    files = page.write(tune.sections(search), args.out, title, notes)
    print(tune.sentence(search))
    print(f"the report: {files[0]}")
    return 0
