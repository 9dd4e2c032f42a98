"""Options that commands of one photo or one network share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone

EMBEDDED = "patchwork_vit"


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Add the options that `backbone` reads."""
    parser.add_argument("--backbone", default=EMBEDDED, help="a file of conf/backbone")
    parser.add_argument("--pretrained", help="open_clip's tag")
    parser.add_argument("--checkpoint", help="a local .safetensors or .pt file")
    parser.add_argument("--seed", type=int, default=0)


def backbone(args: argparse.Namespace) -> Backbone:
    """The network that was asked for."""
    from sclip_lab.config.registry import load_backbone

    return load_backbone(args.backbone, args.pretrained, checkpoint=args.checkpoint, seed=args.seed)


def usual_dataset(backbone: str) -> str | None:
    """The data set whose protocol values count: the embedded network has a window of its own."""
    return "patchwork" if backbone == EMBEDDED else None


def warn_of_unknown_words(backbone: str, names: Sequence[str]) -> None:
    """The embedded network answers to any word, but has seen few."""
    from sclip_lab.data.vocabulary import Vocabulary

    if backbone != EMBEDDED:
        return
    known = Vocabulary.named("patchwork").names
    words = [word.strip() for name in names for word in name.split(",")]
    strange = [word for word in words if word and word not in known]
    if strange:
        print(
            f"warning: {EMBEDDED} knows {len(known)} words, not {', '.join(strange)}: what it "
            f"says of them means nothing. It knows {', '.join(known)}; --backbone "
            "ViT-B-16-quickgelu --pretrained openai is CLIP",
            file=sys.stderr,
        )
