"""Train a network on worn scenes, from another's weights or from scratch; resumable.

python experiments/world_search/train.py OUT --windows 100000 --start FILE
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from world import World, scene

from sclip_lab import atomic
from sclip_lab.data.patchwork import CLASSES
from sclip_lab.training.muon import Muon
from sclip_lab.training.patchwork import Captions, contrastive_loss, top1

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH, PATCH = 128, 160, 8
LEAST_COVER, MOST_NAMES = 0.04, 4
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1) * 255
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1) * 255
CODES = 32  # values of the code of a patch's colour


def config(side: int, layers: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (ROOT / "sclip_lab/assets/patchwork_vit/config.json").read_text()
    )
    found["vision_cfg"] |= {"image_size": side, "layers": layers}
    return found


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def pool(folder: Path, world: World, scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Train scenes as memory maps, made once a world."""
    folder.mkdir(parents=True, exist_ok=True)
    done, files = folder / "pool.json", (folder / "images.npy", folder / "masks.npy")
    wanted = json.loads(json.dumps({**asdict(world), "scenes": scenes}))
    if not done.is_file() or json.loads(done.read_text()) != wanted:
        images = np.empty((scenes, HEIGHT, WIDTH, 3), np.uint8)
        masks = np.empty((scenes, HEIGHT, WIDTH), np.uint8)
        for i in range(scenes):
            rng = np.random.Generator(np.random.PCG64([2, 0, i]))
            images[i], masks[i] = scene(world, rng, HEIGHT, WIDTH)
        for file, array in zip(files, (images, masks), strict=True):
            atomic.write(file, partial(_save, array))
        atomic.write_text(done, json.dumps(wanted))
    first, second = (np.load(file, mmap_mode="r") for file in files)
    return first, second


def windows(
    images: np.ndarray, masks: np.ndarray, batch: int, side: int, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray]:
    """(batch, 3, side, side) in 0 .. 255, and (batch, classes) booleans."""
    found = np.empty((batch, side, side, 3), np.uint8)
    present = np.empty((batch, len(CLASSES)), bool)
    for row in range(batch):
        index = rng.integers(len(images))
        top, left = rng.integers(HEIGHT - side + 1), rng.integers(WIDTH - side + 1)
        area = slice(top, top + side), slice(left, left + side)
        image = np.rot90(images[index][area], int(rng.integers(4)))[:, :: rng.choice((-1, 1))]
        image = image[..., rng.permutation(3)]
        found[row] = image ^ (255 * rng.integers(0, 2, 3)).astype(np.uint8)
        counts = np.bincount(masks[index][area].ravel(), minlength=len(CLASSES))
        present[row] = counts / side**2 >= LEAST_COVER
    return torch.from_numpy(found).permute(0, 3, 1, 2).float(), present


class Texts:
    """Captions and the text tower over the few tokens that they use."""

    def __init__(self) -> None:
        self.captions = Captions(open_clip.SimpleTokenizer().encode, 24, 49408)
        self.ids = torch.tensor(self.captions.token_ids)
        self.names = torch.stack([self.captions.encode([n]) for n in CLASSES])

    def draw(
        self, present: np.ndarray, short: float, rng: np.random.Generator
    ) -> tuple[Tensor, np.ndarray]:
        some = present.copy()
        for row in some:
            there = np.flatnonzero(row)
            row[rng.permutation(there)[MOST_NAMES:]] = False
        return self.captions.draw(some, short, rng)

    def encode(self, model: Any, ids: Tensor) -> Tensor:
        """As open_clip's encode_text of rows cut behind the longest; (rows, embed_dim)."""
        length = int((ids != 0).sum(dim=1).max())
        ids = ids[:, :length]
        x = model.token_embedding(ids) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=1)]
        return F.normalize(x @ model.text_projection, dim=-1)


def code(colour: Tensor) -> Tensor:
    """(..., 3) mean colours in 0 .. 255 to (..., CODES) random Fourier features."""
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(3, CODES // 2, generator=generator) / 60
    angle = colour @ way
    return torch.cat([angle.cos(), angle.sin()], dim=-1) * 2**0.5


class Seen:
    """One pass of the vision tower in training; bf16 products, float32 sums."""

    def __init__(self, model: Any, keep: int, low: bool) -> None:
        self.v, self.keep, self.low = model.visual, keep, low

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.low:
            return F.linear(x, weight, bias)
        x, weight = x.bfloat16(), weight.bfloat16()
        return F.linear(x, weight, None if bias is None else bias.bfloat16())

    def tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1 + keep, width) before the blocks, and (batch, keep, 3) colours."""
        v, p = self.v, PATCH
        b, _, h, w = pixels.shape
        patches = pixels.view(b, 3, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(b, -1, 3, p * p)
        chosen = torch.rand(b, patches.shape[1]).argsort(dim=1)[:, : self.keep]
        patches = patches[torch.arange(b)[:, None], chosen]
        colour = patches.mean(dim=-1)
        flat = ((patches - MEAN.view(3, 1)) / STD.view(3, 1)).flatten(2)
        x = F.linear(flat, v.conv1.weight.flatten(1))
        x = x + v.positional_embedding[1:][chosen]
        first = (v.class_embedding + v.positional_embedding[0]).expand(b, 1, -1)
        return v.ln_pre(torch.cat([first, x], dim=1)), colour

    def attend(
        self, block: Any, x: Tensor, rows: Tensor | None = None, sharp: Tensor | None = None
    ) -> Tensor:
        """What attention adds, for all tokens or for ``rows`` (batch, n) of them, whose scores are
        multiplied by ``sharp`` (batch, n); 0 is the mean over the tokens."""
        attn, n = block.attn, block.ln_1(x)
        b, t, d = n.shape
        heads = attn.num_heads
        qkv = self.linear(n, attn.in_proj_weight, attn.in_proj_bias).float()
        q, k, v = qkv.view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        if rows is not None:
            q = q.gather(2, rows[:, None, :, None].expand(-1, heads, -1, d // heads))
        if sharp is not None:
            q = q * sharp[:, None, :, None]
        weights = ((q * (d // heads) ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(b, -1, d)
        return self.linear(mixed, attn.out_proj.weight, attn.out_proj.bias).float()

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        m = block.mlp
        hidden = self.linear(block.ln_2(x), m.c_fc.weight, m.c_fc.bias)
        hidden = F.silu(hidden * 1.702) / 1.702
        return self.linear(hidden, m.c_proj.weight, m.c_proj.bias).float()

    def __call__(self, pixels: Tensor, even: float) -> tuple[Tensor, ...]:
        """Unit embeddings of the class token and of one random patch, (batch, embed_dim) each, the
        patch with the mean of all values in a share ``even`` of the windows; the share that
        attention adds before the last block; late tokens; their colours."""
        x, colour = self.tokens(pixels)
        added = x.new_zeros(())
        *early, last = self.v.transformer.resblocks
        for block in early:
            a = self.attend(block, x)
            mean = x[:, 1:].square().mean(dim=-1).detach()
            added = added + (a[:, 1:].square().mean(dim=-1) / mean).mean()
            x = x + a
            x = x + self.mlp(block, x)
        late = F.layer_norm(x[:, 1:], x.shape[-1:])
        b = len(x)
        rows = torch.stack([torch.zeros(b).long(), torch.randint(1, x.shape[1], (b,))], dim=1)
        sharp = torch.stack([torch.ones(b), (torch.rand(b) >= even).float()], dim=1)
        y = x[torch.arange(b)[:, None], rows] + self.attend(last, x, rows, sharp)
        y = y + self.mlp(last, y)
        y = F.normalize(self.v.ln_post(y) @ self.v.proj, dim=-1)
        return y[:, 0], y[:, 1], added, late, colour


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("out", type=Path)
    option("--start", type=Path, help="safetensors, or a checkpoint of this script")
    option("--world", type=json.loads, default={}, help="parameters of World, as json")
    option("--pool", type=Path, default=Path("/tmp/world_search/pool"))
    option("--scenes", type=int, default=4000)
    option("--windows", type=int, default=100_000)
    option("--side", type=int, default=96)
    option("--layers", type=int, default=8)
    option("--batch", type=int, default=96)
    option("--keep", type=float, default=0.35, help="share of the patches that is seen")
    option("--lr", type=float, default=2e-3)
    option("--muon", type=float, default=0.02)
    option("--own", type=float, default=0.5, help="weight of what attention adds before the last")
    option("--still", type=float, default=0.5, help="weight of the colour that late tokens keep")
    option("--any", type=float, default=0.5, help="weight of the caption read from any patch")
    option("--even", type=float, default=0.7, help="share of those where the patch attends evenly")
    option("--short", type=float, default=0.8, help="share of captions with one name")
    option("--noise", type=float, default=1.0, help="on late tokens before their colour is read")
    option("--fp32", action="store_true")
    option("--warmup", type=int, default=50)
    option("--decay", type=float, default=0.4)
    option("--seed", type=int, default=0)
    return parser.parse_args()


def begin(model: Any, file: Path) -> None:
    """Load another network's weights; position embeddings are stretched to the window."""
    if file.suffix == ".safetensors":
        weights = {k: v.float() for k, v in safetensors.torch.load_file(file).items()}
    else:
        weights = torch.load(file, weights_only=True)["model"]
    mine, name = model.state_dict(), "visual.positional_embedding"
    old, new = weights[name], mine[name]
    if old.shape != new.shape:
        a, b = int((len(old) - 1) ** 0.5), int((len(new) - 1) ** 0.5)
        grid = old[1:].T.reshape(1, -1, a, a)
        grid = F.interpolate(grid, (b, b), mode="bilinear", align_corners=False)
        weights[name] = torch.cat([old[:1], grid.flatten(2)[0].T])
    model.load_state_dict(weights)


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    world = World(**args.world)
    images, masks = pool(args.pool, world, args.scenes)
    model, texts = open_clip.CLIP(**config(args.side, args.layers)), Texts()
    probe = torch.nn.Linear(96, CODES)
    if args.start:
        begin(model, args.start)
    named = dict(model.named_parameters())
    table = named.pop("token_embedding.weight").requires_grad_(False)
    few = torch.nn.Parameter(table[texts.ids].clone())
    place = torch.zeros(49408, dtype=torch.long)
    place[texts.ids] = torch.arange(len(texts.ids))
    model.token_embedding = torch.nn.Embedding(len(texts.ids), 64, _weight=few)
    few = model.token_embedding.weight
    inner = [n for n, p in named.items() if "resblocks" in n and p.ndim == 2]
    outer = [p for n, p in named.items() if n not in inner] + [few, *probe.parameters()]
    optimizers = [
        Muon([named[n] for n in inner], lr=args.muon, weight_decay=0.05),
        torch.optim.AdamW(outer, lr=args.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0),
    ]
    rates = [o.param_groups[0]["lr"] for o in optimizers]
    step, state_file = 0, args.out / "state.pt"
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        kept = state["model"]
        kept["token_embedding.weight"] = kept["token_embedding.weight"][texts.ids]
        model.load_state_dict(kept)
        probe.load_state_dict(state["probe"])
        for o, s in zip(optimizers, state["optimizers"], strict=True):
            o.load_state_dict(s)
        step = state["step"]
    steps = args.windows // args.batch
    patches = (args.side // PATCH) ** 2
    seen = Seen(model, int(args.keep * patches), not args.fp32)
    names = place[texts.names]
    saved, recent, cpu = time.monotonic(), [], time.process_time()
    while step < steps:
        rng = np.random.default_rng([args.seed, step])
        torch.manual_seed(args.seed * 1_000_003 + step)
        factor = min(1.0, (step + 1) / args.warmup, (steps - step) / (args.decay * steps))
        for o, rate in zip(optimizers, rates, strict=True):
            o.param_groups[0]["lr"] = rate * factor
        pixels, present = windows(images, masks, args.batch, args.side, rng)
        whole, single, added, late, colour = seen(pixels, args.even)
        ids, caption = texts.draw(present, args.short, rng)
        # The last two ids of the tokenizer stay the last two: the end is still the largest id.
        text = texts.encode(model, torch.cat([place[ids], names]))
        text, name_features = text[: len(ids)], text[len(ids) :].detach()
        scale = model.logit_scale.exp()
        loss = contrastive_loss(whole, text, scale, present, caption)
        other = contrastive_loss(single, text, scale, present, caption)
        wanted = code(colour)
        heard = probe(F.dropout(late + args.noise * torch.randn_like(late), 0.5))
        still = F.mse_loss(heard, wanted)
        total = loss + args.any * other + args.own * added + args.still * still
        total.backward()
        torch.nn.utils.clip_grad_norm_([*named.values(), few], 2.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        model.logit_scale.data.clamp_(0, math.log(100))
        step += 1
        with torch.no_grad():
            hits = [top1(e, name_features, present) for e in (whole, single)]
        recent.append([loss.item(), other.item(), added.item(), still.item(), *hits])
        if step % 25 == 0:
            row = np.mean(recent, axis=0)
            recent = []
            text_row = " ".join(f"{value:.3f}" for value in row)
            with (args.out / "log.txt").open("a") as log:
                log.write(f"{step * args.batch} {text_row} {time.process_time() - cpu:.0f}\n")
        if step == steps or time.monotonic() - saved > 120:
            kept = model.state_dict()
            whole_table = torch.zeros(49408, 64)
            whole_table[texts.ids] = few.detach()
            kept["token_embedding.weight"] = whole_table
            state = {
                "model": kept,
                "probe": probe.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "names": name_features,
                "world": json.loads(json.dumps(asdict(world))),
                "side": args.side,
                "layers": args.layers,
            }
            atomic.write(state_file, partial(torch.save, state))
            saved = time.monotonic()


if __name__ == "__main__":
    main()
