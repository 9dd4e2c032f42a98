"""Make tests/vectors from the full set of official outputs: ``python -m tests.trim_vectors DIR``.

Keeps every file, and of it what shows that the method is right on a square and on a rectangular
image, in less than 3 MB. See tests/vectors/README.md.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

FEATURE_ROWS = 24
WEIGHT_ROWS = [0, 2]  # of the five that were stored: the class token, and a patch
# Inputs and arrays that are left out.
LEFT_OUT = (
    "sq224_b__",
    "rect336x448__",
    "21x28__",
    "unmodified_feat",
    "key_out_proj",
    "without_half_posemb",
    "raw_logits",
    "_s4",
    "f_pamr10",
    "bgr_to_rgb",
    "photo375x500",
    "mask_full",
    "out_full",
    "layer1_feat",
)
KEPT_WHOLE = ("openai_pooled", "cliptrase_pipeline", "sfp", "sfp_l2", "sfp_lof", "scclip")


def trimmed(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one file that are kept, and the rows of the large ones."""
    result = {}
    for key, array in arrays.items():
        if name not in KEPT_WHOLE and any(part in key for part in LEFT_OUT):
            continue
        if key.endswith(("__attn", "selfcorr11")):
            continue
        if key.endswith("__feat") and len(array) > FEATURE_ROWS:
            index = np.linspace(0, len(array) - 1, FEATURE_ROWS).round().astype(np.int32)
            result[key], result[f"{key}_index"] = array[index], index
        elif key.endswith("attn_rows"):
            result[key] = array[..., WEIGHT_ROWS, :]
        elif key.endswith("attn_rows_index"):
            result[key] = array[WEIGHT_ROWS]
        else:
            result[key] = array
    return result


def main(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in sorted(source.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            kept = trimmed(path.stem, {key: arrays[key] for key in arrays.files})
        np.savez_compressed(target / path.name, **kept)  # type: ignore[arg-type]
    shutil.copyfile(source / "digests.json", target / "digests.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).resolve().parent / "vectors")
