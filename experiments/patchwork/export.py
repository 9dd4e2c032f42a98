"""From a checkpoint of patchwork_vit to what is shipped: weights, architecture, curve, card."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from experiments.patchwork.grouping import Weights
from experiments.patchwork.scenes import (
    HEIGHT,
    LEAST_COVER,
    MOST_NAMES,
    PART,
    WIDTH,
    Captions,
    draw_windows,
    to_tensor,
    top1,
)
from experiments.patchwork.tower import Hiding
from sclip_lab.core import files
from sclip_lab.data.patchwork import CLASSES, Patchwork

CURVE = "windows,loss,top1_train,rate,seconds"
CARD = """# patchwork_vit

patchwork_vit was trained so that the order of SCLIP's paper appears: it tests the laboratory, not
the paper. It is a CLIP ({vision[layers]} blocks, width {vision[width]}, heads of \
{vision[head_width]}, patches of \
{vision[patch_size]} in a window of {vision[image_size]} pixels)
trained from scratch on Patchwork by `experiments/patchwork/train.py`, with captions and never
with masks. It is a **model organism**: it lets every command run on a machine without network
(docs/embedded-world.md says how it was made). It knows {known} words, and nothing it shows is a
statement about CLIP.

| held-out scenes, one random window of each of {scenes_tested} | model | chance |
|---|---|---|
| top-1: the nearest class name is of something in the window | {top1:.1%} | {chance:.1%} |
| classes present among the k nearest names, k = their number | {recall:.1%} | {chance:.1%} |

A class is in a window when it covers at least {least:.0%} of it: {classes:.2f} on average. The
prompt is the plain name.

| training | |
|---|---|
| seen | {seen:,} windows, the first {parts:,} of them parts of {part} pixels, the last \
{again:,} in a second round; {scenes:,} train scenes, and as many easy ones |
| hidden | {hiding} |
| time | {minutes:.0f} minutes on one core ({processor}) |
| seed | {seed} |
| loss | CLIP's, in batches of {batch}; every caption that is true of a window is a positive |
| beside it | {weights}; in the second round {second} |
| captions | {short:.0%} name one of the classes present, the others up to {most} of them |
| optimiser | Muon {muon} inside the blocks, AdamW {lr} elsewhere |

`experiments/patchwork/tower.py` says what is hidden, `experiments/patchwork/grouping.py` what is
beside the loss. `curve.csv`: loss, top-1 on train windows (patches hidden), share of the full rate,
seconds. Embeddings of tokens that no caption uses are zero. Weights are fp16.

## Trained until these claims held

Losses and the point where training stopped were chosen by these (docs/embedded-world.md, "What it
shows"). `sclip-lab paper` reads this list: that they hold is no evidence.

- main: CSA is better than vanilla attention
- main: CSA is better than MaskCLIP
- main: MaskCLIP is better than vanilla attention
- projections: Even the worst random projection is better than vanilla attention
- alternatives: CSA is better than sharpened attention at any setting
- alternatives: CSA is better than local attention at any setting
- alternatives: CSA is better than early attention at any setting
- alternatives: Local attention repairs part: its best setting is above vanilla
- alternatives: Early attention repairs part: its best setting is above vanilla
- layers: CSA in the last block alone is best (residual and MLP kept)
- layers: CSA is better than MaskCLIP, residual and MLP kept
- layers: CSA is better than MaskCLIP, residual and MLP dropped
- attention: CSA's maps depend on where they look from more than vanilla's
- attention: Less of CSA's attention falls on other classes than of vanilla's
- qualitative: CSA is better than vanilla attention on most photos
- backbones: On patchwork_vit CSA is better than vanilla attention
- covariance: Variants with lower inter class mass score higher
"""


def measure(model: Any, captions: Captions, scenes: int = 2000) -> dict[str, Any]:
    """Image-level accuracy on one random window of each of ``scenes`` test scenes, in 0 .. 1.

    Args:
        model: open_clip's CLIP in evaluation mode.
    """
    world, rng = Patchwork("test", scenes, HEIGHT, WIDTH), np.random.default_rng(0)
    samples = (world[index] for index in range(scenes))
    pairs = [draw_windows((s.image[None], s.mask[None]), 1, rng) for s in samples]
    pixels, present = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    with torch.no_grad():
        blocks = (to_tensor(part) for part in np.array_split(pixels, -(-scenes // 250)))
        image = torch.cat([model.encode_image(block, normalize=True) for block in blocks])
        names = captions.name_features(model)
    order = (image @ names.T).argsort(dim=1, descending=True).numpy()
    count = present.sum(axis=1)
    return {
        "scenes_tested": scenes,
        "classes": count.mean(),
        "top1": top1(image, names, present),
        "chance": count.mean() / len(CLASSES),
        "recall": np.mean([present[i, order[i, :k]].mean() for i, k in enumerate(count)]),
    }


def processor() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _in_words(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def export(
    model: Any,
    captions: Captions,
    config: dict[str, Any],
    facts: dict[str, Any],
    weights: tuple[Weights, Weights],
    curve: list[list[float]],
    folder: Path,
) -> None:
    """Write model.safetensors, config.json, curve.csv and README.md into ``folder``.

    Args:
        model: open_clip's CLIP in evaluation mode.
        captions: how its captions were written.
        config: its architecture, in open_clip's terms.
        facts: of the run, for the card.
        weights: of the losses in the first and in the second round.
        curve: rows of ``CURVE``.
        folder: each file in it is replaced as a whole.
    """
    figures = measure(model, captions)
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    about = {
        "vision": config["vision_cfg"],
        "known": len(CLASSES),
        "least": LEAST_COVER,
        "most": MOST_NAMES,
        "part": PART,
        "processor": processor(),
        "hiding": _in_words(asdict(Hiding())),
        "weights": _in_words(asdict(weights[0])),
        "second": _in_words(
            {k: v for k, v in asdict(weights[1]).items() if v != getattr(weights[0], k)}
        ),
    }
    files.write_bytes(folder / "model.safetensors", save(halves))
    files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    lines = [",".join(f"{value:g}" for value in row) for row in curve]
    files.write_text(folder / "curve.csv", "\n".join([CURVE, *lines]) + "\n")
    card = CARD.format(**figures, **facts, **about)
    files.write_text(folder / "README.md", card)
