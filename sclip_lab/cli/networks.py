"""``sclip-lab networks``: what the installed open_clip and timm know, and what of it loads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclip_lab.network.survey import Network

NO_TRANSFORMER = "is no plain vision transformer"


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.add_argument(
        "--family", default="", help="part of a name, such as eva; all otherwise"
    )
    arguments.add_argument("--all", action="store_true", help="list networks without patches too")
    arguments.add_argument("--markdown", type=Path, help="write the table to this file as well")


def run(args: argparse.Namespace) -> int:
    """Print the table; write it as Markdown if asked."""
    from sclip_lab.core import files
    from sclip_lab.core.errors import LabError
    from sclip_lab.network.survey import survey

    networks = list(survey(args.family, progress=True))
    if not networks:
        raise LabError(f"--family {args.family}: no name of open_clip or timm holds these letters")
    listed = networks if args.all else [n for n in networks if NO_TRANSFORMER not in n.refusal]
    text = markdown(listed, len(networks) - len(listed))
    print(text)
    if args.markdown is not None:
        files.write_text(args.markdown, text + "\n")
    return 0


def markdown(networks: Sequence[Network], others: int) -> str:
    """The table: what loads by library, then what does not and why.

    ``others`` is the number of further names, which are no vision transformers.
    """
    lines = [
        "# Networks",
        "",
        f"What open_clip {version('open_clip_torch')} and timm {version('timm')} know, made by "
        "`sclip-lab networks --markdown docs/networks.md`. Load one by "
        "`backbone=open_clip backbone.name=...` or `backbone=timm backbone.name=...`.",
        "",
        "Sides of patches and trained images are in pixels, means of the published weights in "
        "0 .. 255. A text tower of transformers needs `backbone.text_folder=<local folder>` where "
        "its hub cannot be reached.",
        "",
        "SAM's embeddings are those behind its convolutions; only its blocks that see the whole "
        "image can be rewritten. An encoder of a language model with its projector (`_enc`, "
        "`_merge`, `_align`) embeds a patch as a cell of the projector that it fills alone. VOLO's "
        "blocks are those behind its outlook attention. Qwen's and Gemma's encoders and factorized "
        "position embeddings take images of all sizes by themselves, whatever the rule "
        "`position_embedding`.",
    ]
    for library in ("open_clip", "timm"):
        loaded = [n for n in networks if n.library == library and not n.refusal]
        if loaded:
            rows = [(n.name, *n.facts.values()) for n in loaded]
            columns = ("name", *loaded[0].facts)
            lines += ["", f"## {library}: {len(loaded)} load", "", *_table(columns, rows)]
    refused = [(n.library, n.name, n.refusal) for n in networks if n.refusal]
    if refused:
        lines += ["", f"## {len(refused)} do not load", ""]
        lines += _table(("library", "name", "reason"), refused)
    if others:
        lines += ["", f"{others} more names are no vision transformers (`--all` lists them)."]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in cells]
