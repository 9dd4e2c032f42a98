"""``sclip-lab paper``: evaluate what the studies lack, then write their report."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sclip_lab.config import plugins
from sclip_lab.core.errors import LabError
from sclip_lab.run.known_words import EMBEDDED


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from sclip_lab.paper import studies

    questions = "".join(f"  {n:<14}{studies.load(n).question}\n" for n in studies.names())
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.description = (
        "Evaluate the cells that the studies lack in as few passes as possible, and write a "
        "report.\nWithout a backbone: the embedded world. Any key of `sclip-lab evaluate`\n"
        "may follow, such as dataset=voc21,context60 backbone=ViT-B-16-quickgelu."
    )
    arguments.epilog = (
        f"studies:\n{questions}\nA study of your own: plugins=[my.ideas] --config-dir=my/conf, "
        "docs/extending.md."
    )
    add = arguments.add_argument
    add("words", nargs="*", metavar="STUDY | KEY=VALUE", help="default: all studies")
    add("--out", type=Path, default=Path("results/paper"), help="the report's folder")
    add("--image", help="attention study: a photo's name in the data set")
    add("--points", nargs="+", metavar="Y,X", help="attention study: pixels")
    add("--config-dir", metavar="DIR", help="a folder of yaml files of your own")
    add("--family", choices=["claim", "page"], default="claim",
        help="adjust p over the comparisons of each claim, or over all of the page")  # fmt: skip
    add("--processes", type=int, metavar="N",
        help="copies of this process that share the images, on a CPU; default: one for each core, "
        "at most 4, for the embedded network, which is too small for threads, else 1")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the report; return 0. The report and stderr name what could not be evaluated."""
    from sclip_lab.core import files
    from sclip_lab.paper import sections
    from sclip_lab.report import page
    from sclip_lab.run import studies

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keys = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word]
    plugins.enter([*keys, *([f"--config-dir={args.config_dir}"] if args.config_dir else [])])
    keys = [key for key in keys if not key.lstrip("+").startswith("hydra.searchpath=")]
    if not any(key.startswith("paths.store=") for key in keys):
        keys.append(f"paths.store={args.out / 'store'}")  # not among the user's own cells
    cells = studies.compose(names, keys)
    options = {"image": args.image, "points": points(args.points or [])}
    parts = studies.draw(cells, options, args.processes)
    for line in dict.fromkeys(line for part in cells.values() for line in part.missing):
        print(f"not evaluated: {line}", file=sys.stderr)
    backbones = [spec.backbone for part in cells.values() for spec in part.specs]
    embedded = any(backbone.name == EMBEDDED for backbone in backbones)
    random = all(backbone.description.get("seed") is not None for backbone in backbones)
    notes = [_command(args)]
    notes += [sections.EMBEDDED] if embedded else []
    notes += [sections.RANDOM] if random else []
    written, judged = sections.sections(parts, args.family, embedded)
    paths = page.write(written, args.out, "SCLIP's paper, study by study", notes)
    files.write_text(args.out / "verdicts.md", sections.markdown(parts, judged, embedded))
    print(f"{len(paths)} files, the report: {paths[0]}")
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command that draws the same page again."""
    words = ["sclip-lab", "paper", *args.words]
    for option in ("--image", "--points", "--config-dir", "--family"):
        value = getattr(args, option.strip("-").replace("-", "_"))
        if value and value != "claim":
            words += [option, *(value if isinstance(value, list) else [value])]
    return shlex.join(words)


def points(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pixels from "row,column"."""
    try:
        return [(int(y), int(x)) for y, x in (text.split(",") for text in texts)]
    except ValueError:
        raise LabError(
            f"--points {' '.join(texts)}: must be row,column in pixels, as 40,60"
        ) from None
