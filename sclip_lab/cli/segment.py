"""``sclip-lab segment``: label one photo and save a picture of it."""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

from sclip_lab.cli import options
from sclip_lab.core.errors import LabError, about

# Kinds of pictures with a palette whose indices stay as they are.
PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
MOST_NAMES = 256


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    arguments.add_argument("photo", type=Path)
    arguments.add_argument("names", nargs="+", help="a class each; synonyms separated by commas")
    arguments.add_argument("--attention", default="csa", help="a file of conf/attention")
    arguments.add_argument("--protocol", default="sclip", help="a file of conf/protocol")
    arguments.add_argument("--out", type=Path, default=Path("segmentation.png"), help="a png")
    options.add_backbone(arguments)


def run(args: argparse.Namespace) -> int:
    """Write the label map and a picture with a legend; print each class's share."""
    _check_picture(args)
    import numpy as np
    from PIL import Image

    from sclip_lab.core import files
    from sclip_lab.data.decode import read_image
    from sclip_lab.report.pictures import labelled
    from sclip_lab.run.library import segment

    photo, backbone = read_image(args.photo), options.backbone(args)
    with about(args.photo):
        labels = segment(backbone, photo, args.names, args.attention, args.protocol)
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    colours = [colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.6, 0.9) for index in range(256)]
    palette = np.rint(255 * np.array(colours)).astype(np.uint8)
    picture.putpalette(palette.tobytes())
    kind = PICTURES[args.out.suffix.lower()]
    files.write(args.out, lambda path: picture.save(path, kind))
    legend = args.out.with_name(f"{args.out.stem}_legend.png")
    figure = labelled(photo, labels, args.names, palette)
    files.write(legend, lambda path: figure.savefig(path, dpi=150, format="png"))
    print(f"with legend: {legend}")
    for index, name in enumerate(args.names):
        print(f"{index:3d}  {name:<30} {100 * (labels == index).mean():5.1f} % of the photo")
    print(f"label map: {args.out}")
    return 0


def _check_picture(args: argparse.Namespace) -> None:
    """Check, before anything is computed, that the label map can be written to ``--out``."""
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
