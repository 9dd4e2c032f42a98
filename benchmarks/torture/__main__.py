"""Kills, flips and malformed input on purpose, and what came of it.

    python -m benchmarks.torture [--quick] [--seed N] [--out docs]

About 20 minutes on 2 cores. Writes <out>/reliability.json, and the figures between the marks of
<out>/reliability.md. Ends with 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.torture import kills

MEMORY = 12 << 30
BEGIN, END = "<!-- figures: make torture -->", "<!-- end of figures -->"


def main() -> int:
    """Run all parts; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    # What takes all memory is a fault too, and is to be found as one.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)  # the store says of every damaged file where it went
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    print(f"seed {args.seed}", flush=True)
    try:
        found = measured(folder, args.seed, args.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not args.quick:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "reliability.json").write_text(json.dumps(found, indent=1) + "\n")
        _into_page(args.out / "reliability.md", found)
    zeros = ("images_lost", "images_doubled", "wrong_outcomes", "flips_undetected")
    return int(any(found[key] for key in zeros))


def measured(folder: Path, seed: int, quick: bool) -> dict[str, Any]:
    """Everything in one record. Processes are forked before torch is loaded."""
    began, generator = time.monotonic(), random.Random(seed)
    limit = 6 if quick else None
    parts: dict[str, dict[str, Any]] = {}

    def part(name: str, found: dict[str, Any]) -> None:
        parts[name] = found
        print(f"{time.monotonic() - began:7.0f} s  {name}: {found}", flush=True)

    part("new store", kills.at_every_point(folder, limit))
    part("damaged store", kills.at_every_point(folder, limit, kills.half))
    part("random times", kills.at_random(folder, 6 if quick else 200, generator))
    part("writers together", kills.together(folder, 2 if quick else 20))
    part("no room", kills.without_room(folder))
    from benchmarks.torture import flips, fuzz

    part("flips", flips.flip(folder / "flips", 10 if quick else 150, generator))
    outcomes = fuzz.fuzz(folder / "fuzz", 300 if quick else 10_000, generator)
    part("fuzz", dict(outcomes.counts))
    right = ("right", "clear error")
    wrong = sum(count for name, count in outcomes.counts.items() if name not in right)
    return {
        "seed": seed,
        "kill_points": sum(found.get("kill_points", 0) for found in parts.values()),
        "random_kills": parts["random times"]["random_kills"],
        "images_lost": sum(found.get("lost", 0) for found in parts.values()),
        "images_doubled": sum(found.get("doubled", 0) for found in parts.values()),
        "fuzz_cases": sum(outcomes.counts.values()),
        "wrong_outcomes": wrong + sum(found.get("wrong", 0) for found in parts.values()),
        "wrong": outcomes.wrong[:50],
        "flips": parts["flips"]["flips"],
        "flips_undetected": parts["flips"]["flips_undetected"],
        "skipped": parts["no room"].get("skipped"),
        "parts": parts,
        "seconds": round(time.monotonic() - began, 1),
    }


def _into_page(page: Path, found: dict[str, Any]) -> None:
    """The figures into the page, between its marks."""
    lines = ["| what | how often |", "|---|---|"]
    keys = ("kill_points", "random_kills", "images_lost", "images_doubled", "flips",
            "flips_undetected", "fuzz_cases", "wrong_outcomes", "seconds", "seed")  # fmt: skip
    lines += [f"| {key.replace('_', ' ')} | {found[key]} |" for key in keys]
    table = "\n".join([BEGIN, *lines, END])
    text = (
        page.read_text(encoding="utf-8") if page.is_file() else f"# Reliability\n\n{BEGIN}{END}\n"
    )
    before, _, rest = text.partition(BEGIN)
    page.write_text(before + table + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
