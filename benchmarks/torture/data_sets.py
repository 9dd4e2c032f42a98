"""Data sets of one's own: photos and masks in every form, lists, values of the yaml."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.torture import lines
from benchmarks.torture.confine import nameable
from benchmarks.torture.outcomes import Outcomes


def folders(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Data sets of one's own: photos and masks of all forms, lists, values of the yaml."""
    own = folder / "own"
    conf = own / "dataset"
    conf.mkdir(parents=True)
    with lines.cheap(folder):
        for number in range(cases):
            root = folder / f"data{number}"
            what, may_pass = _data_set(root, conf / "case.yaml", generator)
            command = generator.choice(["evaluate", "evaluate", "verify", "learn"])
            line = {
                "evaluate": ["evaluate", f"--config-dir={own}", "dataset=case",
                             *(w for w in lines.SMALL if not w.startswith("dataset.")),
                             f"paths.store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"],
                "verify": ["data", "verify", "case"],
                "learn": ["learn-projection", "--dataset", "case", "--images", "1", "--steps", "1",
                          "--out", str(folder / "out.safetensors")],
            }[command]  # fmt: skip

            def run(
                line: list[str] = line, command: str = command, may_pass: bool = may_pass
            ) -> None:
                with lines.own_folder(own):
                    lines.complaint(line, None, may_pass=may_pass or command != "evaluate")

            outcomes.case(f"data set {what}: {command}", "", run)
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(folder / "store", ignore_errors=True)


def _data_set(root: Path, file: Path, generator: random.Random) -> tuple[str, bool]:
    """A small data set of two photos with something odd; whether it may be used all the same."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    noise = np.random.default_rng(generator.randrange(1000)).integers(0, 255, (48, 64, 3))
    ids = (noise[..., 0] % 3).astype(np.uint8)
    for stem in ("one", "two"):
        Image.fromarray(noise.astype(np.uint8)).save(root / f"images/{stem}.png")
        Image.fromarray(ids).save(root / f"masks/{stem}.png")
    (root / "names.txt").write_text("sky\ngrass\ncat\n")
    values: dict[str, Any] = {
        "_target_": "sclip_lab.data.folder.Folder", "name": "case", "root": str(root),
        "images": "images", "masks": "masks", "image_suffix": ".png",
        "vocabulary": str(root / "names.txt"),
    }  # fmt: skip
    what, may_pass = "", True
    how = generator.randrange(4)
    if how == 0:
        key = generator.choice([*values, "mask_suffix", "mask_name", "ignore_index", "label_map",
                                "reduce_zero_label", "split", "recursive", "limit", "expected",
                                "nothing"])  # fmt: skip
        odd: list[Any] = [None, -1, 0, 1, 300, 2**40, 0.5, float("nan"), "", "text", "..", "/dev",
                          "a\nb", "x" * 300, [], [1], {}, {1: 2}, {0: 70000}, {"a": "b"},
                          {1: float("nan")}, True, "../../x"]  # fmt: skip
        value = generator.choice(nameable(odd))
        values[key] = value
        what = f"{key}={value!r}"[:60]
    elif how == 1:
        name, content, may_pass = generator.choice(list(_masks(ids)))
        (root / "masks/two.png").write_bytes(content)
        what = f"mask {name}"
    elif how == 2:
        name, content, may_pass = generator.choice(list(_photos(noise.astype(np.uint8))))
        (root / "images/two.png").write_bytes(content)
        what = f"photo {name}"
    else:
        text = generator.choice([b"", b"sky\n", b"sky\nsky\ncat\n", b"sky\n\ncat", b"\xff\xfe",
                                 b"\xef\xbb\xbfsky\ngrass\ncat", b"a\nb\nc\n\n\n", b"a,,b\nc\nd",
                                 b"a\x00\nb\nc", b"<b>\n$x$\n{}", b"x" * 5000, b"\n".join(
                                     b"%d" % n for n in range(300))])  # fmt: skip
        (root / "names.txt").write_bytes(text)
        what = f"names {text[:30]!r}"
    file.write_text(yaml.safe_dump(values))
    return what, may_pass


def _stored(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def _masks(ids: np.ndarray) -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes, whether it may be read."""
    grey = Image.fromarray(ids)
    whole = _stored(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "cut", whole[: len(whole) // 2], False
    yield "cut at the end", whole[:-5], False
    yield "empty", b"", False
    yield "colours", _stored(grey.convert("RGB")), False
    yield "alpha", _stored(grey.convert("LA")), False
    yield "id 200", _stored(Image.fromarray(ids + 198)), False
    yield "another size", _stored(grey.resize((30, 30))), False
    yield "turned", _stored(grey, exif=turned), False
    yield "4 bits of grey", _png(ids, bits=4, kind=0), False
    yield "2 bits of grey", _png(ids, bits=2, kind=0), False
    yield "2 bits of a palette", _png(ids, bits=2, kind=3), True
    yield "16 bits", _stored(Image.fromarray(ids.astype(np.uint16))), True
    yield "16 bits, id 60000", _stored(Image.fromarray(ids.astype(np.uint16) + 60000)), False
    yield "palette", _stored(grey.convert("P")), True
    yield "jpeg", _stored(Image.fromarray(ids * 80), "jpeg"), False
    yield "text", b"some text", False


def _photos(pixels: np.ndarray) -> Iterator[tuple[str, bytes, bool]]:
    colour = Image.fromarray(pixels)
    whole = _stored(colour)
    turned = Image.Exif()
    turned[0x0112] = 3
    yield "cut", whole[: len(whole) // 2], False
    yield "empty", b"", False
    yield "another size", _stored(colour.resize((30, 30))), False
    yield "floats", _stored(Image.fromarray(pixels[..., 0].astype(np.float32)), "tiff"), False
    yield "turned over", _stored(colour, exif=turned), True
    yield "alpha", _stored(colour.convert("RGBA")), True
    yield "CMYK", _stored(colour.convert("CMYK"), "tiff"), True
    yield "grey", _stored(colour.convert("L")), True
    yield "1 bit", _stored(colour.convert("1")), True
    yield "palette", _stored(colour.quantize(16)), True
    yield "16 bits of grey", _stored(Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)), True
    yield "webp", _stored(colour, "webp"), True
    yield "two frames", _stored(colour, "gif", save_all=True, append_images=[colour]), True
    yield (
        "a header of 100,000 x 100,000",
        whole[:16] + bytes.fromhex("000186a0000186a0") + whole[24:],
        False,
    )


def _png(ids: np.ndarray, bits: int, kind: int) -> bytes:
    """A PNG of few bits a pixel, made by hand: PIL would choose them by itself."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    height, width = ids.shape
    each = 8 // bits
    parts = ids.reshape(height, width // each, each)
    packed = sum(parts[..., i].astype(int) << (8 - bits * (i + 1)) for i in range(each))
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in np.asarray(packed))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
