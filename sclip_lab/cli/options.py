"""Options of commands that use one network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sclip_lab.run.known_words import EMBEDDED

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Add the options for `backbone`."""
    parser.add_argument("--backbone", default=EMBEDDED, help="a file of conf/backbone")
    parser.add_argument("--pretrained", help="open_clip's tag")
    parser.add_argument("--checkpoint", help="a local .safetensors or .pt file")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")


def backbone(args: argparse.Namespace) -> Backbone:
    """The network that the options name."""
    from sclip_lab.config.registry import load_backbone

    return load_backbone(args.backbone, args.pretrained, checkpoint=args.checkpoint, seed=args.seed)
