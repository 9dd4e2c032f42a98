"""A store of six weeks: sweeps on two splits and three sizes, protocols that are equal on the set,
two names of one network, an interrupted sweep and three shards. ``python -m tests.months <folder>``
writes one to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sclip_lab.results.store import spec_files, sweeps
from tests.synthetic_store import confusion_rows, key_of, labels, write_spec

SKILL = {
    "vanilla": 0.3, "csa": 0.7, "naclip": 0.65, "maskclip": 0.5, "clearclip": 0.68,
    "csa(temperature=0.5)": 0.66, "csa(temperature=2.0)": 0.6, "gem": 0.62,
}  # fmt: skip
SIZES = (("test", 4), ("test", 16), ("test", 32), ("train", 16))


def write(root: Path) -> None:
    """Twelve sweeps into an empty folder."""
    temperatures = ["csa", "csa(temperature=0.5)", "csa(temperature=2.0)"]
    plan: list[tuple[str, Sequence[str], tuple[str, int], dict[str, str]]] = [
        ("first look", ["vanilla", "csa"], SIZES[0], {}),
        ("more photos", ["csa", "naclip"], SIZES[1], {}),
        ("baseline", ["vanilla"], SIZES[1], {}),
        ("temperature", temperatures, SIZES[1], {}),
        ("choose on train", temperatures, SIZES[3], {}),
        ("naclip's protocol", ["csa", "naclip"], SIZES[1], {"protocol": "naclip"}),
        ("checkpoint", ["csa"], SIZES[1], {"backbone": "my_tiny"}),
        ("methods", ["vanilla", "csa", "naclip", "maskclip", "clearclip"], SIZES[2], {}),
        ("gem", ["gem"], SIZES[2], {}),
        ("again", ["vanilla", "csa"], SIZES[0], {}),
        ("interrupted", [f"csa(temperature={t})" for t in (3.0, 4.0, 5.0, 6.0, 7.0)], SIZES[2], {}),
        ("shards", ["maskclip"], SIZES[1], {}),
    ]  # fmt: skip
    written: dict[str, str] = {}
    for number, (name, chosen, size, changed) in enumerate(plan):
        options = {}
        for label in chosen:
            names = {"attention": label, "backbone": "tiny", "dataset": "shapes"}
            names |= {"protocol": "sclip"} | changed
            place = f"{label} {size}"
            if place not in written:
                part = 1 if name == "interrupted" else size[1]
                written[place] = _cell(root, label, size, part, number, name == "shards")
            else:
                spec_files.add_names(root / "specs" / written[place], names)
            options[written[place]] = names
        command = f"sclip-lab evaluate -m attention={','.join(chosen)} dataset.split={size[0]} "
        sweeps.note(root, name, f"{command}dataset.limit={size[1]}", options)


def _cell(
    root: Path, label: str, size: tuple[str, int], there: int, day: int, sharded: bool
) -> str:
    split, count = size
    images = [f"{split}_{number:03d}" for number in range(count)]
    skill, first = SKILL.get(label, 0.4), 0 if split == "test" else 500
    rows = [
        confusion_rows(name, *labels(first + number, skill, (24, 32), 5))
        for number, name in enumerate(images[:there])
    ]
    config = {
        "dataset": {
            "digest": key_of(split, count), "split": split, "selection": f"first {count}",
        },
        "attention": {"temperature": float(label.split("=")[1][:-1]) if "=" in label else 1.0},
    }  # fmt: skip
    return write_spec(
        root, label, rows, images, config=config, seed=int(key_of(split, count)[:6], 16),
        created=f"2026-10-{10 + day:02d}T09:00:00", chunk=-(-count // 3) if sharded else count,
    )  # fmt: skip


if __name__ == "__main__":
    write(Path(sys.argv[1]))
