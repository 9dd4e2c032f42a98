"""``sclip-lab``: evaluate, tune, paper, report, explore, data, store, segment, learn-projection."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sclip_lab.core import signals
from sclip_lab.core.errors import LabError, about
from sclip_lab.run import collector, ending

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone

# Kinds of pictures with a palette whose indices stay as they are.
PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
MOST_NAMES = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 when it went well, 1 with one line on stderr otherwise.

    A signal ends it in one line too, see `sclip_lab.core.signals`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    ending.readable_output()
    with signals.one_line():
        return ending.in_one_line(lambda: _main(arguments), " ".join(["sclip-lab", *arguments]))


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["evaluate"]:
        # Everything behind the word is Hydra's, its --help included.
        with collector.seldom():
            from sclip_lab.cli.evaluate import main as evaluate

            sys.argv = ["sclip-lab evaluate", *arguments[1:]]
            evaluate()
        return 0
    if arguments[:1] == ["paper"]:  # options may stand between studies and keys
        from sclip_lab.cli import paper

        return paper.run(paper.parser().parse_intermixed_args(arguments[1:]))
    if arguments[:1] == ["report"]:
        from sclip_lab.cli import report

        with collector.seldom():
            return report.run(report.parser().parse_args(arguments[1:]))
    if arguments[:1] == ["tune"]:
        from sclip_lab.cli import tune

        with collector.seldom():
            return tune.run(tune.parser().parse_intermixed_args(arguments[1:]))
    args = _parser().parse_args(arguments)
    return int(args.run(args))


def _parser() -> argparse.ArgumentParser:
    from sclip_lab.cli import data, store
    from sclip_lab.run import explore

    parser = argparse.ArgumentParser(prog="sclip-lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("evaluate", help="one variant, or with -m a sweep; takes Hydra overrides")
    data.add_parser(commands).set_defaults(run=data.run)
    store.add_parser(commands).set_defaults(run=store.run)
    commands.add_parser("report", help="tables and figures of a store as one page and as files")
    commands.add_parser("tune", help="search parameters on the train split, report on the test")
    commands.add_parser("paper", help="the paper study by study: evaluate, then write a report")

    segment = commands.add_parser("segment", help="label one photo and save a picture of it")
    segment.add_argument("photo", type=Path)
    segment.add_argument("names", nargs="+", help="a class each; synonyms separated by commas")
    segment.add_argument("--attention", default="csa", help="a file of conf/attention")
    segment.add_argument("--protocol", default="sclip", help="a file of conf/protocol")
    segment.add_argument("--out", type=Path, default=Path("segmentation.png"))
    segment.set_defaults(run=_segment)

    learn = commands.add_parser(
        "learn-projection", help="learn W_r for attention=csa_learned from the train split"
    )
    learn.add_argument("--dataset", default="patchwork", help="a file of conf/dataset")
    learn.add_argument("--folder", help="another root for it, for example a train split")
    learn.add_argument("--protocol", default="sclip", help="whose prompts are used")
    learn.add_argument("--images", type=int, default=64)
    learn.add_argument("--steps", type=int, default=100)
    learn.add_argument("--lr", type=float, default=1e-3)
    learn.add_argument("--full-width", action="store_true", help="one map for all heads")
    learn.add_argument("--out", type=Path, default=Path("results/projection.safetensors"))
    learn.set_defaults(run=_learn)

    exploring = explore.add_parser(commands)
    exploring.set_defaults(run=explore.run)

    for command in (segment, exploring, learn):
        command.add_argument("--backbone", default="patchwork_vit", help="a file of conf/backbone")
        command.add_argument("--pretrained", help="open_clip's tag")
        command.add_argument("--checkpoint", help="a local .safetensors or .pt file")
        command.add_argument("--seed", type=int, default=0)
    return parser


def _segment(args: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image

    import sclip_lab as lab
    from sclip_lab.core import files
    from sclip_lab.data.decode import read_image
    from sclip_lab.report.pictures import labelled
    from sclip_lab.run import known_words

    _check_picture(args)
    if _natural_data(args.backbone):
        known_words.warn(args.names)
    protocol = lab.load_protocol(args.protocol, _natural_data(args.backbone))
    photo = read_image(args.photo)
    attention, backbone = lab.load_attention(args.attention), _backbone(args)
    with about(args.photo):
        labels = lab.segment(backbone, photo, args.names, attention, protocol)
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    hues = np.arange(256) * 0.618034 % 1
    palette = np.array([_colour(hue) for hue in hues], dtype=np.uint8)
    picture.putpalette(palette.tobytes())
    kind = PICTURES[args.out.suffix.lower()]
    files.write(args.out, lambda path: picture.save(path, kind))
    overlay = args.out.with_name(f"{args.out.stem}_legend.png")
    figure = labelled(photo, labels, args.names, palette)
    files.write(overlay, lambda path: figure.savefig(path, dpi=150, format="png"))
    print(f"with legend: {overlay}")
    for index, name in enumerate(args.names):
        print(f"{index:3d}  {name:<30} {100 * (labels == index).mean():5.1f} % of the photo")
    print(f"label map: {args.out}")
    return 0


def _check_picture(args: argparse.Namespace) -> None:
    """That the label map can be written as asked for, before anything is computed."""
    if args.out.suffix.lower() not in PICTURES:
        raise LabError(
            f"--out {args.out}: the label map keeps its ids as one of {', '.join(PICTURES)}"
        )
    if args.out.is_dir():
        raise LabError(f"--out {args.out}: is a folder, not the name of a picture")
    if args.out.exists() and args.photo.exists() and args.out.samefile(args.photo):
        raise LabError(f"--out {args.out}: is the photo itself, which is not overwritten")
    if len(args.names) > MOST_NAMES:
        raise LabError(f"{len(args.names)} names: a label map holds {MOST_NAMES} classes at most")


def _learn(args: argparse.Namespace) -> int:
    import sclip_lab as lab
    from sclip_lab.evaluation.learned_projection import learn_projection, save_projection
    from sclip_lab.segmentation.pipeline import make_readout

    overrides = {"root": args.folder} if args.folder else {}
    if args.dataset == "patchwork":
        overrides |= {"split": "train", "limit": args.images}
    dataset = lab.load_dataset(args.dataset, **overrides)
    backbone = _backbone(args)
    protocol = lab.load_protocol(args.protocol, args.dataset)
    text = make_readout(backbone, dataset.vocabulary, protocol, progress=True).text
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
    projection, losses = learn_projection(
        backbone, dataset, text, dataset.vocabulary.query_classes, **settings
    )
    save_projection(args.out, projection, backbone, dataset, **settings)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps: {args.out}")
    print(f"use it: attention=csa_learned attention.projection_file={args.out}")
    return 0


def _backbone(args: argparse.Namespace) -> Backbone:
    import sclip_lab as lab

    return lab.load_backbone(
        args.backbone, args.pretrained, checkpoint=args.checkpoint, seed=args.seed
    )


def _natural_data(backbone: str) -> str | None:
    """Patchwork's own network has its own window; every other takes the protocol as it is."""
    return "patchwork" if backbone == "patchwork_vit" else None


def _colour(hue: float) -> tuple[int, int, int]:
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


if __name__ == "__main__":
    sys.exit(main())
