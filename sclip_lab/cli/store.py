"""``sclip-lab store``: list, sweeps, verify, repair, gc and export what evaluations keep."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sclip_lab.core.errors import LabError

STORE_VARIABLE = "SCLIP_LAB_STORE"


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    commands = arguments.add_subparsers(dest="store_command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.add_argument(
            "--store", type=Path, metavar="DIR",
            help=f"the store (default: ${STORE_VARIABLE} or results/store)",
        )  # fmt: skip
        if name != "export":  # whose words are keys
            added.add_argument("path", nargs="?", type=Path, help="the same as --store")
        return added

    command("list", "one line per cell: names, images done, size")
    command("sweeps", "one line per sweep: name, when, cells, how many finished, command")
    command("verify", "read every file and name what is damaged, lost or orphaned")
    command("repair", "set damaged files aside")
    cleaning = command("gc", "delete temporary files that nobody writes any more")
    cleaning.add_argument("--damaged", action="store_true", help="also what was set aside")
    cleaning.add_argument("--orphans", action="store_true", help="also files of cells without spec")
    cleaning.add_argument("--dry-run", action="store_true", help="only name them")
    exporting = command("export", "write cells as one parquet and one json file")
    exporting.add_argument("keys", nargs="*", metavar="key", help="beginnings of keys; all if none")
    exporting.add_argument("--to", type=Path, required=True, metavar="NAME",
                           help="NAME.parquet and NAME.json")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the parsed command; return 0, or 1 when ``verify`` found damage."""
    from sclip_lab import results
    from sclip_lab.results.store import sweeps, upkeep

    path = getattr(args, "path", None)
    if path and args.store and path != args.store:
        raise LabError(f"two stores: {path} and --store {args.store}; name one")
    root = args.store or path or Path(os.environ.get(STORE_VARIABLE) or "results/store")
    if args.store_command == "list":
        print(upkeep.contents(root).to_string(index=False))
        return 0
    if args.store_command == "sweeps":
        specs = results.specs(root)
        finished = dict(zip(specs["key"], specs["done"] == specs["images"], strict=True))
        table = sweeps.table(root, finished)
        for name in ("name", "command"):
            table[name] = table[name].str.ljust(int(table[name].str.len().max() or 0))
        print(table.rename(columns={"command": "  command"}).to_string(index=False, justify="left"))
        return 0
    if args.store_command == "verify":
        findings = list(upkeep.check(root))
        print(upkeep.described(findings, root))
        return int(any(finding.state == "damaged" for finding in findings))
    if args.store_command == "repair":
        print(upkeep.described(upkeep.repair(root), root))
        return 0
    if args.store_command == "gc":
        findings = upkeep.collect(root, damaged=args.damaged, orphans=args.orphans)
        size = sum(f.path.stat().st_size for f in findings if f.path.is_file())
        print(upkeep.described(findings, root))
        if not args.dry_run:
            for finding in findings:
                finding.path.unlink(missing_ok=True)
        print(f"{size / 1e6:.2f} MB {'could be' if args.dry_run else 'were'} freed")
        return 0
    for path in upkeep.export(root, args.to, args.keys or None):
        print(path)
    return 0
