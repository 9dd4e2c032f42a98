"""Photos and masks from files to arrays, or one clear error naming the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sclip_lab.errors import LabError

PHOTO_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
MASK_MODES = ("1", "L", "P", "I;16", "I;16B", "I")


def read_image(path: str | Path) -> np.ndarray:
    """A photo, turned upright by its EXIF orientation, as the field's loader (cv2) does.

    Returns:
        (height, width, 3) uint8, RGB; an alpha channel is dropped.

    Raises:
        LabError: empty, truncated or damaged file, or more than 8 bits a channel.
    """
    with _decoded(path, "photo") as image:
        if image.mode not in PHOTO_MODES:
            raise LabError(f"photo {path}: PIL mode '{image.mode}' is not an 8-bit photo")
        upright = ImageOps.exif_transpose(image)
        return np.array(upright.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """A mask's raw ids; of a palette file the indices, not the colours.

    Returns:
        (height, width) int32, the ids as stored.

    Raises:
        LabError: empty, truncated or damaged file, or colours where ids are expected.
    """
    with _decoded(path, "mask") as image:
        if image.mode not in MASK_MODES:
            raise LabError(
                f"mask {path}: PIL mode '{image.mode}' holds colours; class ids need one "
                "channel (8 bits, 16 bits, or a palette whose indices are the ids)"
            )
        return np.array(image).astype(np.int32)


@contextmanager
def _decoded(path: str | Path, kind: str) -> Iterator[Image.Image]:
    """The opened and fully decoded file: a truncated one raises, it is never padded with grey."""
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise LabError(f"{kind} {path}: the file is empty (0 bytes); fetch it again")
        with path.open("rb") as file, Image.open(file) as image:
            image.load()
            yield image
    except LabError:
        raise
    except FileNotFoundError as error:
        raise LabError(f"{kind} {path}: no such file") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        reason = "not an image file" if isinstance(error, Image.UnidentifiedImageError) else error
        raise LabError(f"{kind} {path}: truncated or damaged ({reason}); fetch it again") from error
