"""``sclip-lab networks``: what the installed open_clip and timm know, and what of it loads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclip_lab.network.survey import Network

COLUMNS = (
    *("name", "blocks", "patch", "image", "class token", "registers", "text", "activation"),
    "channel means",
)
NO_TRANSFORMER = "is no plain vision transformer"


def parser() -> argparse.ArgumentParser:
    """The arguments of ``sclip-lab networks``."""
    made = argparse.ArgumentParser(
        prog="sclip-lab networks",
        description="List the networks of the installed open_clip and timm: what loads, and what "
        "the others have that is not supported.",
    )
    made.add_argument("--family", default="", help="part of a name, such as eva; all otherwise")
    made.add_argument("--all", action="store_true", help="list networks without patches too")
    made.add_argument("--markdown", type=Path, help="write the table to this file as well")
    return made


def run(args: argparse.Namespace) -> int:
    """Print the table; write it as Markdown if asked."""
    from sclip_lab.core import files
    from sclip_lab.network.survey import survey

    networks = list(survey(args.family))
    shown = networks if args.all else [n for n in networks if NO_TRANSFORMER not in n.refusal]
    text = markdown(shown, len(networks) - len(shown))
    print(text)
    if args.markdown is not None:
        files.write_text(args.markdown, text + "\n")
    return 0


def markdown(networks: Sequence[Network], others: int) -> str:
    """The table: what loads by library, then what does not and why."""
    lines = [
        "# Networks",
        "",
        "Made by `sclip-lab networks --markdown docs/networks.md`. Names are those of"
        " `backbone=open_clip backbone.name=...` and `backbone=timm backbone.name=...`.",
    ]
    for library in ("open_clip", "timm"):
        loaded = [n for n in networks if n.library == library and not n.refusal]
        if not loaded:
            continue
        lines += ["", f"## {library}: {len(loaded)} load", "", "| " + " | ".join(COLUMNS) + " |"]
        lines += ["|" + "---|" * len(COLUMNS)]
        for n in loaded:
            cells = (n.name, n.depth, n.patch, n.image, "yes" if n.class_token else "no",
                     n.registers, n.text or "none", n.activation, n.mean)  # fmt: skip
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    refused = [n for n in networks if n.refusal]
    if refused:
        lines += ["", f"## {len(refused)} do not load", "", "| library | name | reason |"]
        lines += ["|---|---|---|"]
        lines += [f"| {n.library} | {n.name} | {n.refusal} |" for n in refused]
    if others:
        lines += ["", f"{others} more names are no vision transformers (`--all` lists them)."]
    return "\n".join(lines)
