"""Make tests/vectors from the full sets of official outputs.

``python -m tests.trim_vectors FIRST SECOND``, the folders of both batches. Keeps every file, and of
it what shows that the method is right on a square and on a rectangular image, in less than 3 MB and
1 MB. See tests/vectors/README.md.
"""

from __future__ import annotations

import json
import re
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
        left_out = any(part in key for part in LEFT_OUT) and "seg_sliding" not in key
        if name not in KEPT_WHOLE and left_out:
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


# Of the second batch: files of which both images are kept, and arrays that are left out.
BOTH_IMAGES = ("pearl", "cdam_sclip", "rfclip", "ttr", "scra", "dih_h8top4", "freecp_sclip")
SECOND_LEFT_OUT = (
    r".*_g28__.*",
    r"sq(224_b|256)_.*",
    r"(rect336x448|odd230x347)__.*",
    r".+__attn",
    r"[abde]__(image|logits|out|out_notext|out_\d+classes|scale)",  # of pearl_tlp
    r"[ab]__seg_probs_s4",
    r"b__(guidance|clip_feats|out_s4|input_hw_crop_stride_ori)",  # of lposs
)
# Which arrays keep how many places of which axis.
PARTS = (
    (r".*(feat|feat_keep|laplacian_rows)", 0, 16),
    (r".*__window_feats", 1, 6),
    (r".*__(logits_s\d+|out_s4|out|out_nopix)", 0, 1),
    (r".*seg_probs_s\d+", 1, 4),
)
TOLD = ("input", "c input", "normal_values", "cfg", "apply_sparsity_filter", "names", "a", "b", "c")


def trimmed_second(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same for the second batch, where ``<key>__kept<axis>`` says what is left of an axis."""
    result = {}
    several = "sq224_a__feat" in arrays or "sq224_a__prob" in arrays
    for key, array in arrays.items():
        if any(re.fullmatch(pattern, key) for pattern in SECOND_LEFT_OUT):
            continue
        if several and name not in BOTH_IMAGES and key.startswith("rect224x336"):
            continue
        result[key] = array
        for pattern, axis, count in PARTS:
            if re.fullmatch(pattern, key) and array.ndim > axis and array.shape[axis] > count:
                index = np.linspace(0, array.shape[axis] - 1, count).round().astype(np.int32)
                result[key], result[f"{key}__kept{axis}"] = np.take(array, index, axis), index
                break
    return result


def main(first: Path, second: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    metadata = {}
    for source, keep in ((first, trimmed), (second, trimmed_second)):
        for path in sorted(source.glob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                short = keep(path.stem, {key: arrays[key] for key in arrays.files})
            np.savez_compressed(target / path.name, **short)  # type: ignore[arg-type]
        for name, entry in json.loads((source / "meta.json").read_text()).items():
            few = {k: v for k, v in entry.items() if k in TOLD and isinstance(v, str | dict)}
            metadata.update({name: few} if few else {})
    (target / "meta.json").write_text(json.dumps(metadata, indent=1) + "\n")
    shutil.copyfile(first / "digests.json", target / "digests.json")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    main(Path(sys.argv[1]), Path(sys.argv[2]), here / "vectors")
