"""``sclip-lab explore``: a page that shows where every patch of a photo looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from sclip_lab.cli import options
from sclip_lab.core.errors import LabError


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.add_argument("photo", type=Path)
    arguments.add_argument("--attention", help="files of conf/attention, by commas")
    arguments.add_argument("--names", help='classes, for example "cat; grass,lawn; sky"')
    arguments.add_argument("--mask", type=Path, help="class ids of the truth, drawn as an outline")
    arguments.add_argument("--protocol", default="sclip", help="a file of conf/protocol")
    arguments.add_argument("--patches", type=int, default=28 * 28, help="at most so many")
    arguments.add_argument("--out", type=Path, help="the page (default: explore-<photo>.html)")
    options.add_backbone(arguments)


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from sclip_lab.run.library import EXPLORED, explore

    if args.patches < 1:
        raise LabError(f"--patches {args.patches} must be 1 or more")
    backbone = options.backbone(args)
    typed = ",".join(EXPLORED) if args.attention is None else args.attention
    variants = [name.strip() for name in typed.split(",") if name.strip()]
    page = explore(
        args.photo, args.names, variants, backbone, args.protocol, args.mask,
        max_patches=args.patches,
    )  # fmt: skip
    out = page.save(args.out or Path(f"explore-{args.photo.stem}.html"))
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return 0
