"""``sclip-lab learn-projection``: learn W_r of attention=csa_learned from a train split."""

from __future__ import annotations

import argparse
from pathlib import Path

from sclip_lab.cli import options
from sclip_lab.core.errors import LabError


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.add_argument("--dataset", default="patchwork", help="a file of conf/dataset")
    arguments.add_argument("--folder", help="another root for it, for example a train split")
    arguments.add_argument("--protocol", default="sclip", help="whose prompts are used")
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--lr", type=float, default=1e-3)
    arguments.add_argument("--full-width", action="store_true", help="one map for all heads")
    arguments.add_argument("--out", type=Path, default=Path("results/projection.safetensors"))
    options.add_backbone(arguments)


def run(args: argparse.Namespace) -> int:
    """Learn W_r, write it to a file, print how to use it, and return 0."""
    from sclip_lab.config.registry import load_dataset, load_protocol
    from sclip_lab.data.vocabulary import Vocabulary
    from sclip_lab.evaluation.learned_projection import learn_projection, save_projection
    from sclip_lab.segmentation.pipeline import make_readout

    overrides = {"root": args.folder} if args.folder else {}
    if args.dataset == "patchwork":
        overrides |= {"split": "train", "limit": args.images}
    dataset, backbone = load_dataset(args.dataset, **overrides), options.backbone(args)
    protocol = load_protocol(args.protocol, args.dataset)
    words = Vocabulary.named(protocol.vocabulary) if protocol.vocabulary else dataset.vocabulary
    text = make_readout(backbone, words, protocol, progress=True).text
    if text is None:
        raise LabError(
            f"protocol {protocol.name} reads no texts: a projection is learned with them"
        )
    settings = {
        "images": args.images,
        "steps": args.steps,
        "lr": args.lr,
        "per_head": not args.full_width,
        "seed": args.seed,
    }
    projection, losses = learn_projection(backbone, dataset, text, words.query_classes, **settings)
    save_projection(args.out, projection, backbone, dataset, **settings)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps: {args.out}")
    print(f"use it: attention=csa_learned attention.projection_file={args.out}")
    return 0
