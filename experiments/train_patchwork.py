"""Train patchwork_vit from scratch on Patchwork, with captions and never with masks.

    python experiments/train_patchwork.py --minutes 60

A training pair is a 64 x 64 window of a train scene and a caption naming what covers at least 4 %
of it. Windows with the same set of names are positives of one another. The run can be cut off at
any moment and goes on from its last checkpoint when the same command is typed again; the batch of
a step depends on (seed, step) alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from sclip_lab.datasets.patchwork import CLASSES, Patchwork

ROOT = Path(__file__).parents[1]
WINDOW, HEIGHT, WIDTH = 64, 128, 160
LEAST_COVER = 0.04
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": WINDOW,
        "patch_size": 8,
        "layers": 8,
        "width": 128,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
    "quick_gelu": True,
}
MEAN = STD = (0.5, 0.5, 0.5)


def _block(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    world = Patchwork("train", bounds[1], HEIGHT, WIDTH)
    samples = [world[index] for index in range(*bounds)]
    return np.stack([s.image for s in samples]), np.stack([s.mask for s in samples])


def scene_pool(folder: Path, scenes: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """The first train scenes, made once and kept beside the checkpoints as memory maps.

    Returns:
        (scenes, 128, 160, 3) uint8 images and (scenes, 128, 160) uint8 masks.
    """
    done, image_file, mask_file = (folder / n for n in ("pool.json", "images.npy", "masks.npy"))
    wanted = {"scenes": scenes, "first": Patchwork("train", 8, HEIGHT, WIDTH).digest()}
    if not done.is_file() or json.loads(done.read_text()) != wanted:
        shape = (scenes, HEIGHT, WIDTH)
        images = np.lib.format.open_memmap(image_file, "w+", np.uint8, (*shape, 3))
        masks = np.lib.format.open_memmap(mask_file, "w+", np.uint8, shape)
        bounds = [(low, min(low + 250, scenes)) for low in range(0, scenes, 250)]
        with ProcessPoolExecutor(workers) as executor:
            for (low, high), block in zip(bounds, executor.map(_block, bounds), strict=True):
                images[low:high], masks[low:high] = block
        images.flush()
        masks.flush()
        done.write_text(json.dumps(wanted))
    return np.load(image_file, mmap_mode="r"), np.load(mask_file, mmap_mode="r")


def windows(
    images: np.ndarray, masks: np.ndarray, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random windows, turned, mirrored, with colour channels permuted and inverted.

    Returns:
        (batch, 64, 64, 3) uint8, and (batch, classes) fraction of the window each class covers.
    """
    out = np.empty((batch, WINDOW, WINDOW, 3), np.uint8)
    cover = np.empty((batch, len(CLASSES)))
    for row in range(batch):
        index = rng.integers(len(images))
        top, left = rng.integers(HEIGHT - WINDOW + 1), rng.integers(WIDTH - WINDOW + 1)
        area = slice(top, top + WINDOW), slice(left, left + WINDOW)
        image = np.rot90(images[index][area], rng.integers(4))[:, :: rng.choice((-1, 1))]
        image = image[..., rng.permutation(3)] ^ (255 * rng.integers(0, 2, 3)).astype(np.uint8)
        out[row] = image
        counts = np.bincount(masks[index][area].ravel(), minlength=len(CLASSES))
        cover[row] = counts / WINDOW**2
    return out, cover


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(batch, height, width, 3) uint8 to normalised (batch, 3, height, width) float."""
    x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (x / 255 - mean) / std


@cache
def tokens(caption: str) -> torch.Tensor:
    """(context_length,) token ids."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    return tokenizer([caption])[0]


def captions(present: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """(batch, classes) booleans to (batch, context_length) ids of shuffled lists of names."""
    return torch.stack(
        [tokens(", ".join(CLASSES[i] for i in rng.permutation(np.flatnonzero(row)))) for row in present]
    )


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, same: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross-entropy; ``same`` (batch, batch) tells which pairs share their set of names."""
    logits = scale * image @ text.T
    target = same.float() / same.sum(dim=1, keepdim=True)
    rows = torch.nn.functional.cross_entropy(logits, target)
    columns = torch.nn.functional.cross_entropy(logits.T, target)
    return (rows + columns) / 2


def optimizers(model: torch.nn.Module, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    inner = {n for n, p in named.items() if "resblocks" in n and p.ndim == 2}
    if args.muon == 0:
        inner = set()
    decay = [p for n, p in named.items() if n not in inner and p.ndim >= 2 and "embedding" not in n]
    plain = [p for n, p in named.items() if n not in inner and (p.ndim < 2 or "embedding" in n)]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    ]
    if inner:
        found.append(torch.optim.Muon([named[n] for n in sorted(inner)], lr=args.muon, weight_decay=args.weight_decay))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "results/train_patchwork")
    parser.add_argument("--pool", type=Path, default=ROOT / "results/train_patchwork")
    parser.add_argument("--pool-scenes", type=int, default=20000)
    parser.add_argument("--windows", type=int, default=600_000)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon", type=float, default=0)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.pool.mkdir(parents=True, exist_ok=True)
    images, masks = scene_pool(args.pool, args.pool_scenes, args.threads)
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**CONFIG)
    model.visual.patch_dropout = open_clip.transformer.PatchDropout(args.dropout) if args.dropout else torch.nn.Identity()
    opts = optimizers(model, args)
    rates = [[g["lr"] for g in o.param_groups] for o in opts]
    state_file = args.out / "state.pt"
    step, seconds = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["opts"]):
            o.load_state_dict(s)
        step, seconds = state["step"], state["seconds"]
    visual = torch.compile(model.visual) if args.compile else model.visual
    steps = args.windows // args.batch
    start = last = saved = time.monotonic()
    losses, hits, seen = [], [], 0
    while step < steps and time.monotonic() - start < args.minutes * 60:
        rng = np.random.default_rng([args.seed, step])
        torch.manual_seed(step)
        pixels, cover = windows(images, masks, args.batch, rng)
        present = cover >= LEAST_COVER
        factor = min(1.0, (step + 1) / args.warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for o, r in zip(opts, rates):
            for g, base in zip(o.param_groups, r):
                g["lr"] = base * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            image = visual(to_tensor(pixels))
        image = torch.nn.functional.normalize(image.float(), dim=-1)
        text = model.encode_text(captions(present, rng), normalize=True)
        sets = torch.from_numpy(present)
        same = (sets[:, None] == sets[None]).all(-1)
        loss = contrastive_loss(image, text, model.logit_scale.exp(), same)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        losses.append(loss.item())
        now = time.monotonic()
        if step % 20 == 0:
            with torch.no_grad():
                names = model.encode_text(torch.stack([tokens(n) for n in CLASSES]), normalize=True)
                top = (image @ names.T).argmax(1)
                hit = sets.gather(1, top[:, None]).float().mean().item()
            hits.append(hit)
        if step % 100 == 0 or step == steps:
            seconds += now - last
            last = now
            row = [step, step * args.batch, round(np.mean(losses), 4), round(np.mean(hits), 4), round(opts[0].param_groups[0]["lr"], 6), round(seconds, 1)]
            print(*row, round(step * args.batch / seconds, 1), flush=True)
            with open(args.out / "curve.csv", "a") as f:
                csv.writer(f).writerow(row)
            losses, hits = [], []
        if now - saved > 60 or step == steps:
            saved = now
            part = state_file.with_suffix(".part")
            torch.save({"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "seconds": seconds + now - last}, part)
            os.replace(part, state_file)


if __name__ == "__main__":
    main()
