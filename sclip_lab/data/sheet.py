"""A contact sheet: photos, their masks in class colours, and what each colour means."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Template
from PIL import Image, ImageDraw, ImageFont

from sclip_lab.core import files
from sclip_lab.data.base import Sample
from sclip_lab.data.census import Census
from sclip_lab.data.file_dataset import nearest

CELL = 220, 165  # width, height of a picture, pixels
GAP, LINE = 8, 18
PAIRS = 3  # photos beside each other
ROOM = 9  # pixels that an id needs on every side, in the middle of its region
VOID = (255, 255, 255)  # with a hatch, so that no class looks like it


def class_colours(count: int) -> np.ndarray:
    """(count, 3) uint8: hues a golden angle apart, of varying saturation and brightness."""
    colours = [
        colorsys.hsv_to_rgb(0.618034 * i % 1.0, (0.85, 0.55)[i % 2], (0.95, 0.7, 0.5)[i % 3])
        for i in range(count)
    ]
    return (np.array(colours) * 255).round().astype(np.uint8)


def painted(mask: np.ndarray, ignore_index: int, num_classes: int) -> np.ndarray:
    """(height, width, 3) uint8: a mask in class colours; ignored pixels are hatched white."""
    ignored = mask == ignore_index
    picture = class_colours(num_classes)[np.where(ignored, 0, mask)]
    rows, columns = np.indices(mask.shape)
    hatch = (rows + columns) % max(4, min(mask.shape) // 24) == 0
    picture[ignored] = VOID
    picture[ignored & hatch] = (150, 150, 150)
    return picture


def contact_sheet(name: str, samples: Sequence[Sample], census: Census) -> Image.Image:
    """One picture of all samples, with a legend of the classes that occur."""
    width = PAIRS * 2 * (CELL[0] + GAP) + GAP
    legend = _legend(census)
    columns = max(1, width // 230)
    rows = -(-max(1, len(samples)) // PAIRS)
    height = 40 + rows * (CELL[1] + LINE + GAP) + GAP + (-(-len(legend) // columns)) * LINE + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    title = f"{name}: {len(samples)} of {census.photos} photos, {census.share_ignored:.1%} ignored"
    draw.text((GAP, GAP), title, "black", ImageFont.load_default(16))
    for index, sample in enumerate(samples):
        x = GAP + index % PAIRS * 2 * (CELL[0] + GAP)
        y = 36 + index // PAIRS * (CELL[1] + LINE + GAP)
        rows_of_mask, columns_of_mask = sample.mask.shape
        scale = min(CELL[0] / columns_of_mask, CELL[1] / rows_of_mask)
        # A side may be shorter than a pixel, where ImageOps.contain fails.
        size = max(1, round(scale * columns_of_mask)), max(1, round(scale * rows_of_mask))
        sheet.paste(Image.fromarray(sample.image).resize(size, Image.Resampling.BOX), (x, y))
        small = nearest(sample.mask, size[::-1])
        picture = Image.fromarray(painted(small, census.ignore_index, len(census.pixels)))
        _write_ids(picture, small, census.ignore_index)
        sheet.paste(picture, (x + CELL[0] + GAP, y))
        draw.text((x, y + CELL[1] + 1), _shortened(sample.name, 60), "black", font)
    top = 36 + rows * (CELL[1] + LINE + GAP) + GAP
    for index, (colour, text) in enumerate(legend):
        x = GAP + index % columns * 230
        y = top + index // columns * LINE
        box = (x, y + 2, x + 12, y + 14)
        draw.rectangle(box, fill=colour, outline="black")
        draw.text((x + 17, y), _shortened(text, 30), "black", font)
    return sheet


def _write_ids(picture: Image.Image, mask: np.ndarray, ignore_index: int) -> None:
    """Write each class's id in the middle of its widest part, if there is room."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for number in np.unique(mask[mask != ignore_index]).tolist():
        region = np.pad((mask == number).astype(np.uint8), 1)
        distance = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(distance.argmax()), distance.shape)
        if distance[row, column] >= ROOM:
            place = (float(column), float(row))
            draw.text(place, str(number), "white", font, "mm", stroke_width=2, stroke_fill="black")


def write(folder: Path, name: str, samples: Sequence[Sample], census: Census) -> list[Path]:
    """Write ``<name>.png`` and ``<name>.html`` into ``folder`` and return both paths."""
    sheet = io.BytesIO()
    contact_sheet(name, samples, census).save(sheet, "PNG")
    template = resources.files(__package__).joinpath("sheet.html.j2").read_text("utf-8")
    page = Template(template, autoescape=True).render(
        name=name,
        shown=len(samples),
        census=census,
        colours=class_colours(len(census.pixels)).tolist(),
        picture=base64.b64encode(sheet.getvalue()).decode(),
    )
    paths = [folder / f"{name}.png", folder / f"{name}.html"]
    files.write_bytes(paths[0], sheet.getvalue())
    files.write_text(paths[1], page)
    return paths


def _legend(census: Census) -> list[tuple[tuple[int, ...], str]]:
    """Colour and text of each class that occurs, the largest share first."""
    colours = class_colours(len(census.pixels)).tolist()
    order = np.argsort(-census.pixels, kind="stable")
    entries = [
        (tuple(colours[index]), f"{index} {census.vocabulary.names[index]} {share:.1%}")
        for index in order.tolist()
        if (share := census.shares[index])
    ]
    if census.ignored:
        entries.append((VOID, "white with lines: ignored"))
    return entries


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 3]}..."
