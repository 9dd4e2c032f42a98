"""Photos and masks from files to arrays, or one clear error naming the file.

How each property of a file is treated:

============== =================================================================================
orientation    photos are turned upright by their EXIF tag; a mask with such a tag is refused
alpha          of a photo dropped
palette        a photo's colours, a mask's indices (of a GIF the greys)
CMYK, YCbCr    to RGB
16 bit         of a grey photo the high byte (12 bits in 16 are refused); a mask's ids as they are
2 and 4 bit    grey masks are refused: decoders stretch their ids to 0 .. 255
frames         of a photo the first; a mask of several is refused
transparency   a mask's colours count below transparent pixels if opaque ones have others
compression    masks only in formats that keep every id: a JPEG is refused whatever its name
size           refused before memory is taken, beyond ``$SCLIP_LAB_MAX_MEGAPIXELS`` (179)
.npy           masks of whole numbers; arrays of Python objects are refused
============== =================================================================================
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sclip_lab.core.errors import LabError

SIZE_VARIABLE = "SCLIP_LAB_MAX_MEGAPIXELS"
MEGAPIXELS = 179.0
LARGEST_LIST, LARGEST_JSON = 64 << 20, 2 << 30  # bytes; COCO's largest annotations have 450 MB
PHOTO_MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV",
)  # fmt: skip
MASK_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
# PIL's names for forms of grey whose values it changes: fewer bits, or white as 0.
_STRETCHED = re.compile(r"L;(2|4|I)")
# JPEG 2000 is not here: a file does not say whether its bit rate was cut.
LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "SGI", "WEBP")
# First bytes, in lower case -> what the file is, and what to do.
_OTHER_KINDS = {
    b"<!doctype": "is a web page; fetch it again",
    b"<html": "is a web page; fetch it again",
    b"<": "is XML; export masks or COCO's json (CVAT and VOC tools can)",
    b"{": "is JSON; see docs/your-data.md for what is read",
    b"[": "is JSON; see docs/your-data.md for what is read",
    b"version https://git-lfs": "is a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"\0\5\x16\7": "is what macOS writes beside a file; remove all files named ._*",
    b"pk\x03\x04": "is a zip or .npz; save one array as .npy",
    b"matlab": "is MATLAB's; save the ids as .npy",
}
# Values of TIFF's tag 259: none, CCITT (1 bit), LZW, deflate, PackBits, LZMA, Zstandard.
LOSSLESS_TIFF = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_TIFF_COMPRESSION, _TIFF_SUBFILE = 259, 254
_PNG = b"\x89PNG\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_ORIENTATION = 0x0112
# The error of PIL's own limit names neither the file nor a way to raise it; ours names both.
Image.MAX_IMAGE_PIXELS = None


def is_turned(content: bytes) -> bool:
    """Whether a photo's EXIF tag turns or mirrors it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # reading the pixels will raise the error
        return False


def read_image(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """(height, width, 3) uint8 RGB of a photo, turned upright by its EXIF tag, as the field's
    loader (cv2) does. ``content`` is the file's bytes, if they are in memory already.

    Raises:
        LabError: the file is missing, empty, truncated, damaged, too large, or no photo (float
            values).
    """
    with _decoded(path, "photo", content) as image:
        return _upright(image, f"photo {path}")


def as_image(image: Any) -> np.ndarray:
    """Return (height, width, 3) uint8 RGB from a file, a PIL image or an array of that form.

    A PIL image is read as its file would be: turned upright, alpha dropped.

    Raises:
        LabError: anything else, or a file that cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _upright(image, "the image")
    pixels = image
    with suppress(TypeError, ValueError, RuntimeError):  # a tensor on a GPU, or with gradients
        pixels = np.asarray(image)
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    kind = getattr(pixels, "dtype", type(pixels).__name__)
    if len(shape) != 3 or shape[2] != 3 or kind != np.uint8 or not pixels.size:
        raise LabError(
            f"an image of shape {tuple(shape)} and type {kind}: give a file, a PIL image, "
            "or a (height, width, 3) uint8 array of RGB"
        )
    return pixels


def _upright(image: Image.Image, what: str) -> np.ndarray:
    """(height, width, 3) uint8 RGB of a decoded photo; ``what`` names it in the error."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in SIXTEEN_BIT or (upright.mode == "I" and image.format == "PNG"):
        values = np.asarray(upright).astype(np.int64)
        if 0 < values.max() < 4096:
            raise LabError(
                f"{what}: has 16 bits, but no value above {values.max()}, so white is not 65535; "
                "save it with 8 bits"
            )
        high = (values >> 8).clip(0, 255)
        return np.repeat(high.astype(np.uint8)[..., None], 3, axis=2)
    if upright.mode not in PHOTO_MODES:
        raise LabError(f"{what}: PIL mode '{upright.mode}' is no photo of 8 or 16 bits")
    if upright.mode in ("RGBa", "La"):
        upright = upright.convert(upright.mode.upper())
    return np.array(upright.convert("RGB"))


def read_mask(path: str | Path, content: bytes | None = None, colours: bool = False) -> np.ndarray:
    """Read a mask as it is stored. The bytes decide what it is, not the file's suffix.

    Args:
        path, content: as of `read_image`.
        colours: read colours instead of ids, also those of a palette.

    Returns:
        (height, width) int32 or int64 raw ids (the indices of a palette file), or
        (height, width, 3) uint8 colours.

    Raises:
        LabError: the file is missing, empty, truncated, damaged or too large; it has colours where
            ids are expected; or its ids were changed by lossy compression or would be changed by a
            decoder (2 or 4 bits of grey, white as 0).
    """
    if content is None:
        content = read_bytes(path, "mask")
    if content.startswith(_NPY):
        return _read_array(path, content, colours)
    with _decoded(path, "mask", content) as image:
        if colours and image.mode not in SIXTEEN_BIT:
            return _colours(path, image)
        if image.mode not in MASK_MODES:
            raise LabError(
                f"mask {path}: PIL mode '{image.mode}' holds colours; class ids need one channel "
                "(8 bits, 16 bits, or a palette whose indices are the ids). dataset.palette names "
                "colours; palette: grey takes three equal channels for ids"
            )
        if image.format == "GIF" and image.mode == "P":
            return _grey_levels(path, image)
        return np.array(image).astype(np.int32)


def regular_file(path: str | Path, what: str, largest: float = math.inf) -> os.stat_result:
    """Return ``os.stat`` of a regular file of at most ``largest`` bytes.

    Raises:
        LabError: it is missing, too large, or a folder, pipe or device, whose reading may not end.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileNotFoundError):
            target = os.readlink(path) if os.path.islink(path) else ""
            reason = f"a link to {target}, where nothing is" if target else "no such file"
        raise LabError(f"{what} {_short(path)}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise LabError(f"{what} {_short(path)}: a folder, pipe or device, not a file")
    if status.st_size > largest:
        raise LabError(f"{what} {_short(path)}: {status.st_size} bytes, more than {largest}")
    return status


def read_text(path: Path, what: str, largest: float = LARGEST_LIST) -> str:
    """The text of a `regular_file` in UTF-8, without the byte order mark of some editors."""
    regular_file(path, what, largest)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabError(f"{what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{what} {path}: not UTF-8 text ({error})") from error


def csv_rows(lines: Sequence[str]) -> list[list[str]]:
    """The cells of a csv's lines, without blanks around them.

    The first line tells whether tabs, semicolons (as some countries' Excel writes) or commas
    separate them.
    """
    mark = next((mark for mark in "\t;" if lines and mark in lines[0]), ",")
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark) if row]


@contextmanager
def json_content(path: Path, what: str) -> Iterator[Any]:
    """The content of a `regular_file` of json. Errors in the body of ``with``, such as a missing
    key, become LabErrors that name the file."""
    regular_file(path, what, LARGEST_JSON)
    try:
        yield json.loads(path.read_bytes())
    except LabError as error:
        raise LabError(f"{what} {path}: {error}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(f"{what} {path}: cannot be read ({error!r})") from error


def first_line(error: Exception) -> str:
    """The first line of a decoder's error, or the error's kind if it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def bounded_file(path: str | Path, what: str) -> int:
    """The number of bytes of a `regular_file`, which must not be larger than any photo may be."""
    size = regular_file(path, what).st_size
    if size > 16 * pixel_limit():
        raise LabError(f"{what} {path}: {size} bytes; {_more(size / 16)}")
    return size


def pixel_limit() -> int:
    """The largest number of pixels of a photo or mask, from ``SIZE_VARIABLE`` in the environment.
    A LabError is raised if the variable is no number above 0."""
    value = os.environ.get(SIZE_VARIABLE) or MEGAPIXELS
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e6:
        raise LabError(f"{SIZE_VARIABLE}={value}: a number above 0 is needed, in 10^6 pixels")
    return int(limit * 1e6)


def read_bytes(path: str | Path, what: str) -> bytes:
    """The content of a `bounded_file`, which must not be empty."""
    if bounded_file(path, what) == 0:
        raise LabError(f"{what} {path}: the file is empty (0 bytes); fetch it again")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LabError(f"{what} {path}: {error.strerror}") from error


@contextmanager
def _decoded(path: str | Path, kind: str, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open and fully decode a file. A truncated file raises; it is never padded with grey."""
    limit = pixel_limit()
    if content is None:
        content = read_bytes(path, kind)
    try:
        if content.startswith(_PNG):
            # Decoding skips chunks whose name was damaged; this compares all checksums.
            Image.open(io.BytesIO(content)).verify()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > limit:
                raise LabError(f"{kind} {path}: {width} x {height} pixels; {_more(width * height)}")
            if kind == "mask":
                _check_lossless(path, image, content)
                _check_stored_ids(path, image)
                _check_one_picture(path, image)
            image.load()
            yield image
    except LabError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        if isinstance(error, Image.UnidentifiedImageError):
            raise LabError(f"{kind} {path}: {_kind_of(content)}") from error
        raise LabError(
            f"{kind} {path}: truncated or damaged ({first_line(error)}); fetch it again"
        ) from error


def _kind_of(content: bytes) -> str:
    """Describe a file that is no image."""
    start = content[:200].lstrip().lower()
    for first, kind in _OTHER_KINDS.items():
        if start.startswith(first):
            return kind.replace(";", ", not an image file;", 1)
    if start[4:8] == b"ftyp":
        return "is HEIC or a film, which are not read; save it as PNG or JPEG"
    if start.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "is text, not an image file; save ids as PNG or .npy"
    return "not an image file; truncated or damaged: fetch it again"


def _read_array(path: str | Path, content: bytes, colours: bool) -> np.ndarray:
    """Read an .npy of ids or colours. An array of Python objects is refused."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a damaged header raises many kinds
        raise LabError(f"mask {path}: cannot be read as .npy ({first_line(error)})") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
    if colours and array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8:
        return array
    if colours or array.ndim != 2 or not whole:
        needed = "(height, width, 3) uint8" if colours else "(height, width) of whole numbers"
        raise LabError(
            f"mask {path}: array of shape {array.shape} and type {array.dtype}; {needed} is needed"
        )
    return array.astype(np.int64 if array.dtype.itemsize > 4 else np.int32)


def _more(pixels: float) -> str:
    return (
        f"at most {pixel_limit() / 1e6:g} megapixels are read; {SIZE_VARIABLE}="
        f"{-(-int(pixels) // 1_000_000)} in the environment allows it"
    )


def _check_lossless(path: str | Path, image: Image.Image, content: bytes) -> None:
    """Refuse a mask whose bytes say that compression may have changed its ids."""
    compression = str(image.format)
    lossless = compression in LOSSLESS
    if compression == "TIFF":
        lossless = image.tag_v2.get(_TIFF_COMPRESSION, 1) in LOSSLESS_TIFF  # type: ignore[attr-defined]
        compression = f"TIFF with {image.info.get('compression', 'unknown')} compression"
    elif compression == "WEBP":
        lossless = content[12:16] == b"VP8L"
        compression = "lossy WebP"
    if not lossless:
        raise LabError(
            f"mask {path}: is {compression}, which changes ids where regions meet; take the "
            "original mask and save it as PNG (converting this file does not bring the ids back)"
        )


def _check_stored_ids(path: str | Path, image: Image.Image) -> None:
    """Refuse a mask whose values PIL changes while it decodes them."""
    if image.getexif().get(_ORIENTATION, 1) != 1:
        raise LabError(f"mask {path}: has an EXIF orientation; store it upright, without the tag")
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        stretched = any(isinstance(a, str) and _STRETCHED.match(a) for a in arguments)
        scaled = tile[0].startswith("ppm") and arguments[-1] not in (255, 65535)
        if stretched or scaled:
            raise LabError(
                f"mask {path}: stored as grey of another form than 8 or 16 bits ({arguments[0]}), "
                "which decoders stretch to 0 .. 255; save the ids as 8 bits, or with a palette"
            )


def _check_one_picture(path: str | Path, image: Image.Image) -> None:
    """Refuse a mask of several pictures, often one a class. A TIFF may hold smaller copies."""
    count = getattr(image, "n_frames", 1)
    if count < 2:
        return
    size = image.size
    image.seek(1)
    # Bit 0 marks a smaller copy, bit 2 a mask of transparency.
    subfile = image.tag_v2.get(_TIFF_SUBFILE, 0) if image.format == "TIFF" else 0  # type: ignore[attr-defined]
    alike = image.size == size and not subfile & 5
    image.seek(0)
    if alike:
        raise LabError(
            f"mask {path}: holds {count} pictures, perhaps one a class; save one picture of ids"
        )


def _colours(path: str | Path, image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 colours of a mask. A colour of both transparent and opaque pixels is
    refused."""
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    pixels = np.array(image.convert("RGBA"))
    codes = pixels[..., :3].astype(np.int64) @ (65536, 256, 1)
    opaque = pixels[..., 3] == 255
    if np.isin(codes[~opaque], codes[opaque]).any():
        raise LabError(
            f"mask {path}: transparent pixels have colours of opaque ones, so which class is meant "
            "is unclear; save it without transparency"
        )
    return pixels[..., :3]


def _grey_levels(path: str | Path, image: Image.Image) -> np.ndarray:
    """(height, width) int32 greys of a GIF; its palette indices are no ids."""
    colours = np.array(image.convert("RGB")).astype(np.int32)
    if (colours != colours[..., :1]).any():
        raise LabError(
            f"mask {path}: is a GIF with colours; writers of GIF number the palette anew, so its "
            "indices are no class ids; save the ids as PNG"
        )
    return colours[..., 0]


def _short(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}"
