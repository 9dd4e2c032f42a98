"""Kill writers, flip bits and read malformed input, and count what goes wrong.

    python -m benchmarks.torture [--quick] [--seed N] [--only PART,...] [--out docs]

About 20 minutes on 2 cores. Writes <out>/reliability.json, and the figures between the marks of
<out>/reliability.md. Ends with 1 if anything went wrong, or if the time was up before the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.torture import confine, kills
from benchmarks.torture.shares import Share, shared_out

MEMORY = 12 << 30
KILLS_EACH, FLIPS = 20, 150
# Multiples of the examples of each file of tests/hostile: 10,000 cases in all.
HOSTILE = {"pictures": 32, "values": 15, "weights": 16, "yamls": 30, "stores": 15, "lines": 60}
HOSTILE_EACH = 5
KILLS_PART = 0.45  # part of the time limit, after which no more writers are killed
BEGIN, END = "<!-- figures: make torture -->", "<!-- end of figures -->"
FIGURES = "figures: "  # begins the line with the figures of the run inside


def main() -> int:
    """Run all parts; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="parts, separated by commas; nothing is written then")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--minutes", type=float, default=30, help="shares not begun then are left")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if confine.inside():
        return _inside(args)
    status, text, outside = confine.start(sys.argv[1:], FIGURES)
    if text is None:
        print(f"the run itself failed, status {status}", file=sys.stderr)
        return 1
    figures = json.loads(text) | {"version": _version(), "load": round(os.getloadavg()[2], 1)}
    figures["outside"] = outside
    figures["wrong_outcomes"] += len(outside)
    print(json.dumps(figures, indent=1))
    if not args.quick and not args.only:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "reliability.json").write_text(json.dumps(figures, indent=1) + "\n")
        _into_page(args.out / "reliability.md", figures)
    return _verdict(figures, args.minutes)


def _version() -> str:
    """The commit, and whether something was changed since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=confine.CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def _verdict(figures: dict[str, Any], minutes: float) -> int:
    """Return 0 if all of the work was done and nothing went wrong, else 1."""
    if figures["shares_not_run"]:
        print(
            f"stopped short after {minutes:g} minutes: {figures['shares_not_run']} shares of the "
            "work were not begun; --minutes gives it more time",
            file=sys.stderr,
        )
    zeros = ("images_lost", "images_doubled", "wrong_outcomes", "flips_undetected")
    return int(any(figures[key] for key in (*zeros, "shares_not_run")))


def _inside(args: argparse.Namespace) -> int:
    # Input that takes all memory is a fault, and must not stop this machine.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)  # the store logs each damaged file
    folder = confine.enter()
    print(f"seed {args.seed}; the root is {confine.loose() or 'read-only'}", flush=True)
    figures = measured(folder, args)
    print(FIGURES + json.dumps(figures), flush=True)
    return 0


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run all parts, and return all counts in one record."""
    began = time.monotonic()
    parts: dict[str, Counter[str]] = {}
    took: Counter[str] = Counter()
    wrong: list[str] = []
    skipped: dict[str, str] = {}
    # Writers are forked before torch is loaded, the other shares after it.
    for makers, part in ((_kills, KILLS_PART), (_flips_and_hostile, 1.0)):
        shares = [s for s in makers(folder, args) if not args.only or s.name in args.only]
        random.Random(args.seed).shuffle(shares)  # so that each part loses a few if the time is up
        until = began + 60 * part * args.minutes
        for name, counts in shared_out(shares, args.processes, until):
            for text in counts.pop("wrong_cases", []):
                wrong.append(f"{name}: {text}")
                print(f"wrong: {wrong[-1]!a}", flush=True)
            took[name] += counts.pop("milliseconds", 0)
            skipped |= {name: counts.pop("skipped")} if "skipped" in counts else {}
            parts.setdefault(name, Counter()).update(counts)
            print(f"{time.monotonic() - began:7.0f} s  {name}: {dict(parts[name])}", flush=True)
    total: Counter[str] = sum(parts.values(), Counter())
    faults = ("wrong", "traceback", "hang")
    return {
        "seed": args.seed,
        "kill_points": total["kill_points"],
        "random_kills": total["random_kills"],
        "rounds_of_writers": total["rounds_of_writers"],
        "images_lost": total["lost"],
        "images_doubled": total["doubled"],
        "fuzz_cases": total["cases"],
        "wrong_outcomes": sum(total[key] for key in faults),
        "wrong": wrong[:50],
        "flips": total["flips"],
        "flips_undetected": total["flips_undetected"],
        "skipped": skipped,
        "shares_not_run": total["shares_not_run"],
        "confined": confine.loose() or "read-only root",
        "parts": {name: dict(counts) for name, counts in parts.items()},
        "seconds_of_parts": {name: round(spent / 1000, 1) for name, spent in took.items()},
        "processes": args.processes,
        "seconds": round(time.monotonic() - began, 1),
    }


def _kills(folder: Path, args: argparse.Namespace) -> Iterator[Share]:
    """Yield shares with writers that die, that meet, and that have no room."""
    yield Share("no room", partial(kills.without_room, folder))
    for name, before in (("new store", kills.nothing), ("damaged store", kills.half)):
        if args.only and name not in args.only:
            continue
        last = kills.points(folder, before)
        chosen = list(range(1, last + 1, -(-last // 6) if args.quick else 1))
        for start in range(0, len(chosen), KILLS_EACH):
            these = chosen[start : start + KILLS_EACH]
            yield Share(name, partial(kills.at_points, folder, these, before))
    for number in range(1 if args.quick else 5):
        generator = random.Random(f"{args.seed} random times {number}")
        times = 6 if args.quick else 40
        yield Share("random times", partial(kills.at_random, folder, times, generator))
    for rounds, writers in ((1, 3),) if args.quick else ((10, 3), (10, 4), (2, 20)):
        yield Share("writers together", partial(kills.together, folder, rounds, writers))


def _flips_and_hostile(folder: Path, args: argparse.Namespace) -> Iterator[Share]:
    """Yield shares with changed bits, and with the tests of malformed input on more examples."""
    from benchmarks.torture import flips

    generator = random.Random(f"{args.seed} flips")
    each = 10 if args.quick else FLIPS
    yield Share("flips", partial(flips.flip, folder / "flips", each, generator))
    for name, times in HOSTILE.items():
        for number in range(1 if args.quick else -(-times // HOSTILE_EACH)):
            place = folder / f"{name}{number}"
            more = 1 if args.quick else HOSTILE_EACH
            run = partial(_hostile, place, name, more, 1000 * args.seed + number)
            yield Share(name, run)


def _hostile(folder: Path, name: str, times: int, seed: int) -> dict[str, Any]:
    """Run one file of tests/hostile with ``times`` times its examples."""
    folder.mkdir(parents=True)
    count = folder / "count"
    line = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short",
        f"--hypothesis-seed={seed}", f"tests/hostile/test_hostile_{name}.py",
    ]  # fmt: skip
    more = {
        "SCLIP_LAB_HOSTILE": str(times),
        "SCLIP_LAB_HOSTILE_COUNT": str(count),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    with subprocess.Popen(
        line, cwd=confine.CHECKOUT, env={**os.environ, **more}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        printed = process.stdout.read() if process.stdout else ""
    failed = [text for text in printed.splitlines() if text.startswith(("FAILED", "ERROR", "E  "))]
    cases = int(count.read_text()) if count.exists() else 0
    wrong = failed or ([printed[-2000:]] if process.returncode else [])
    return {"cases": cases, "wrong": int(bool(wrong)), "wrong_cases": wrong}


def _into_page(page: Path, figures: dict[str, Any]) -> None:
    """Write the figures into the page, between its marks."""
    keys = ("kill_points", "random_kills", "rounds_of_writers", "images_lost", "images_doubled",
            "flips", "flips_undetected", "fuzz_cases", "wrong_outcomes", "confined", "seconds",
            "processes", "load", "seed", "version")  # fmt: skip
    lines = ["", "", "| what | how often |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {figures[key]} |" for key in keys]
    lines += ["", "| part | what came of it | seconds of a process |", "|---|---|---|"]
    for name, counts in figures["parts"].items():
        results = ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in counts.items())
        lines.append(f"| {name} | {results} | {figures['seconds_of_parts'].get(name, 0):g} |")
    text = (
        page.read_text(encoding="utf-8") if page.is_file() else f"# Reliability\n\n{BEGIN}{END}\n"
    )
    before, _, rest = text.partition(BEGIN)
    table = "\n".join([BEGIN, *lines[1:], "", END])
    page.write_text(before + table + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
