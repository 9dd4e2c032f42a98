"""Photos and masks in many formats, whole and changed, and what is no file at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sclip_lab.data.decode import read_image, read_mask
from sclip_lab.data.vocabulary import Vocabulary
from tests.hostile.outcome import changed, ends_well, examples

IDS = np.random.default_rng(0).integers(0, 4, (24, 32), dtype=np.uint8)


def corpus() -> dict[str, bytes]:
    grey, colour = Image.fromarray(IDS), Image.fromarray(np.stack([IDS * 60] * 3, -1))
    pictures = {
        "grey.png": grey, "palette.png": grey.convert("P"), "colour.png": colour,
        "alpha.png": colour.convert("LA"), "deep.png": Image.fromarray(IDS.astype(np.uint16) * 256),
        "colour.jpeg": colour, "grey.tiff": grey, "cmyk.tiff": colour.convert("CMYK"),
        "grey.bmp": grey, "palette.gif": grey.convert("P"), "colour.webp": colour, "grey.ppm": grey,
    }  # fmt: skip
    contents = {}
    for name, picture in pictures.items():
        sink = io.BytesIO()
        picture.save(sink, name.rpartition(".")[2])
        contents[name] = sink.getvalue()
    return contents


CORPUS = corpus()


@pytest.mark.parametrize("read", [read_image, read_mask])
@given(data=st.data(), name=st.sampled_from(sorted(CORPUS)))
@examples(60)
def test_changed_pictures(read: Callable[[Path], Any], data: st.DataObject, name: str) -> None:
    whole = CORPUS[name]
    path, good = Path(f"case-{name}"), Path(f"good-{name}")
    content = data.draw(changed(whole))
    path.write_bytes(content)
    good.write_bytes(whole)

    def run() -> None:
        pixels = read(path)
        assert pixels.size
        if name.endswith(".png") and content != whole:
            # A PNG's checksums tell every change of its pixels.
            assert np.array_equal(pixels, read(good))

    ends_well(run, path.name)


@pytest.mark.parametrize("read", [read_image, read_mask, Vocabulary.read])
def test_what_is_no_file(read: Callable[[Path], Any], folder: Path) -> None:
    pipe, device, circle = Path("pipe.png"), Path("device.png"), Path("circle.png")
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    circle.symlink_to(circle)
    for path in (pipe, device, circle, folder, Path("x" * 5000), Path("a\0b")):
        ends_well(lambda path=path: read(path))  # type: ignore[misc]
