"""Train patchwork_vit from scratch on Patchwork, with captions and never with masks.

    python -m experiments.patchwork.train

It begins with parts of windows of easy scenes, of one or two materials. Then come whole windows,
and the share of easy scenes falls to nothing. A second, shorter round changes two of the losses.
docs/embedded-world.md says what each is for.

The run can be cut off at any moment and goes on from its last checkpoint when the same command is
typed again: the batch of a step depends on (seed, step) alone. When it is done, weights,
architecture, curve and model card are written to sclip_lab/assets/patchwork_vit.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.patchwork.export import export
from experiments.patchwork.grouping import Grouping, Weights, too_near
from experiments.patchwork.muon import Muon
from experiments.patchwork.scenes import (
    PART,
    WINDOW,
    Captions,
    Pool,
    contrastive_loss,
    draw_windows,
    scene_pool,
    to_tensor,
    top1,
)
from experiments.patchwork.tower import Hiding, Tower
from sclip_lab.core import files
from sclip_lab.core.errors import LabError

ROOT = Path(__file__).parents[1]
PATCH, WIDTH = 8, 96
CONFIG: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": WINDOW,
        "patch_size": PATCH,
        "layers": 8,
        "width": WIDTH,
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

# In the second round the last block's attention gets flatter, and no two names stay alike.
FIRST, SECOND = Weights(), Weights(flat=0.015, apart=1.0)
LEFT = 0.4  # share of the full rate at the second round's end; docs/embedded-world.md says why

# Options that must be equal to continue a run: all but where files lie, how fast it runs and when
# it pauses.
SETTINGS = (
    *("scenes", "parts", "ease", "windows", "batch", "lr", "muon", "weight_decay", "short"),
    *("warmup", "decay", "seed", "fp32", "again"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--out", type=Path, default=ROOT / "results/train_patchwork", help="checkpoints")
    option("--assets", type=Path, default=ROOT / "sclip_lab/assets/patchwork_vit")
    option("--scenes", type=int, default=8_000, help="different train scenes, and as many easy")
    option("--parts", type=int, default=200_000, help="parts of windows at the beginning")
    option("--ease", type=int, default=200_000, help="windows after them with some easy scenes")
    option("--windows", type=int, default=800_000, help="windows in all after the parts")
    option("--again", type=int, default=240_000, help="windows of a second round")
    option("--minutes", type=float, default=math.inf, help="stop after this long; resumable")
    option("--threads", type=int, default=1)
    option("--batch", type=int, default=96, help="windows in a step; twice as many parts")
    option("--lr", type=float, default=2e-3, help="AdamW: embeddings, norms, text tower's ends")
    option("--muon", type=float, default=0.02, help="Muon's rate: matrices inside the blocks")
    option("--weight-decay", type=float, default=0.05, help="of Muon")
    option("--short", type=float, default=0.6, help="share of captions with one name")
    option("--warmup", type=int, default=100, help="steps of rising rate")
    option("--decay", type=float, default=0.4, help="last share of the run, with falling rate")
    option("--seed", type=int, default=1, help="1: that of the weights that are shipped")
    option("--fp32", action="store_true", help="no products in bf16, for processors without them")
    option("--export-only", action="store_true", help="write the assets from the checkpoint")
    return parser.parse_args()


class Model(torch.nn.Module):
    """open_clip's CLIP, whose text tower holds the tokens of captions alone while it trains.

    Attributes:
        clip: all of it; its token embedding has as many rows as captions have different tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        text = CONFIG["text_cfg"]
        encode = open_clip.SimpleTokenizer().encode
        self.captions = Captions(encode, text["context_length"], text["vocab_size"])
        self.clip = open_clip.CLIP(**CONFIG)
        self._used = torch.tensor(self.captions.token_ids)
        # The last two ids mark beginning and end, and stay the last two: the end is the largest.
        self._place = torch.zeros(text["vocab_size"], dtype=torch.long)
        self._place[self._used] = torch.arange(len(self._used))
        rows = self.clip.token_embedding.weight.detach()[self._used].clone()
        self.clip.token_embedding = torch.nn.Embedding.from_pretrained(rows, freeze=False)
        self.grouping = Grouping(WIDTH)

    def encode_text(self, ids: Tensor, normalize: bool = True) -> Tensor:
        """(rows, context) ids of the tokenizer to (rows, embed_dim) unit vectors; what is behind
        the longest caption is left out."""
        clip, length = self.clip, int((ids != 0).sum(dim=1).max())
        ids = self._place[ids[:, :length]]
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        x = clip.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=1)]
        embedded = x @ clip.text_projection
        return F.normalize(embedded, dim=-1) if normalize else embedded

    def whole(self) -> open_clip.CLIP:
        """A copy with all tokens; those that no caption uses are zero."""
        clip = open_clip.CLIP(**CONFIG).eval()
        weights = self.clip.state_dict()
        table = torch.zeros_like(clip.token_embedding.weight)
        table[self._used] = weights["token_embedding.weight"]
        clip.load_state_dict({**weights, "token_embedding.weight": table})
        return clip


def build_optimizers(model: Model, args: argparse.Namespace) -> list[Any]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    parameters = dict(model.named_parameters())
    inner = [n for n, p in parameters.items() if "resblocks" in n and p.ndim == 2]
    outer = [p for n, p in parameters.items() if n not in inner]
    return [
        Muon([parameters[n] for n in inner], lr=args.muon, weight_decay=args.weight_decay),
        torch.optim.AdamW(outer, lr=args.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0),
    ]


class Run:
    """The model, its optimisers and place in the run.

    Raises:
        LabError: the folder holds a run with other settings.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.model = args, Model()
        self.tower = Tower(self.model.clip.visual, PATCH, Hiding(), not args.fp32)
        self.optimizers = build_optimizers(self.model, args)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.seconds = 0, 0.0
        self.beginning = args.parts // (2 * args.batch)
        self.once = self.beginning + args.windows // args.batch
        self.steps = self.once + args.again // args.batch
        self.settings = {key: getattr(args, key) for key in SETTINGS}
        self.curve: list[list[float]] = []
        if (args.out / "state.pt").is_file():
            self._resume(torch.load(args.out / "state.pt", weights_only=True))

    def _resume(self, state: dict[str, Any]) -> None:
        if state["settings"] != self.settings:
            raise LabError(
                f"{self.args.out} holds a run with {state['settings']}, wanted {self.settings}; "
                "choose another folder with --out"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def save(self) -> None:
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        files.write(self.args.out / "state.pt", partial(torch.save, state))

    @property
    def windows(self) -> int:
        """Parts and windows seen so far."""
        batch, late = self.args.batch, max(0, self.step - self.beginning)
        return 2 * batch * min(self.step, self.beginning) + batch * late

    @property
    def factor(self) -> float:
        """Share of the full rate at this step: up, flat, down to nothing; in the second round from
        the full rate down to ``LEFT``."""
        if self.step >= self.once:
            return 1.0 - (1.0 - LEFT) * (self.step - self.once) / (self.steps - self.once)
        up, down = (self.step + 1) / self.args.warmup, self.args.decay * self.once
        return min(1.0, up, (self.once - self.step) / down)

    def draw(
        self, pools: tuple[Pool, Pool], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The windows of this step, and what is in them."""
        args, (scenes, easy) = self.args, pools
        if self.step < self.beginning:
            return draw_windows(easy, 2 * args.batch, rng, PART)
        windows_before = (self.step - self.beginning) * args.batch
        share = max(0.0, 1.0 - windows_before / args.ease) if args.ease else 0.0
        number = int(rng.binomial(args.batch, share))
        parts = [
            draw_windows(pool, count, rng)
            for pool, count in ((easy, number), (scenes, args.batch - number))
        ]
        pixels, present = (np.concatenate(both) for both in zip(*parts, strict=True))
        return pixels, present

    def take_step(self, pools: tuple[Pool, Pool]) -> tuple[float, float]:
        """Train on one batch, a function of (seed, step).

        Returns:
            The class token's loss, and its top-1 on the batch.
        """
        args, model = self.args, self.model
        weights = FIRST if self.step < self.once else SECOND
        rng = np.random.default_rng([args.seed, self.step])
        torch.manual_seed(args.seed * 1_000_003 + self.step)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * self.factor
        pixels, present = self.draw(pools, rng)
        outputs = self.tower(to_tensor(pixels))
        ids, in_caption = model.captions.draw(present, args.short, rng)
        text, scale = model.encode_text(ids), model.clip.logit_scale.exp()
        losses = [
            contrastive_loss(one, text, scale, present, in_caption)
            for one in outputs.embeddings.unbind(dim=1)
        ]
        others = weights.read * torch.stack(losses[1:]).mean() + model.grouping(outputs, weights)
        if weights.apart:
            ids = model.captions.names
            others = others + weights.apart * too_near(model.encode_text(ids))
        (losses[0] + others).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.clip.logit_scale.data.clamp_(0, math.log(100))
        self.step += 1
        names = model.captions.name_features(model)
        return losses[0].item(), top1(outputs.embeddings[:, 0], names, present)


def train(args: argparse.Namespace) -> None:
    """Train from the last checkpoint to the end, or as long as there is time."""
    torch.set_num_threads(args.threads)
    scenes, easy = (
        scene_pool(args.out / name, args.scenes, name == "easy") for name in ("scenes", "easy")
    )
    run = Run(args)
    begin = last = saved = time.monotonic()
    recent: list[tuple[float, float]] = []
    stop = run.step >= run.steps
    while not stop:
        recent.append(run.take_step((scenes, easy)))
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        stop = run.step >= run.steps or now - begin > 60 * args.minutes
        if run.step % 50 == 0:
            loss, hits = np.mean(recent, axis=0)
            row = [run.windows, loss, hits, run.factor, run.seconds]
            run.curve.append([round(float(value), 4) for value in row])
            recent = []
            line = "windows {:.0f}  loss {:.3f}  top-1 {:.3f}  rate {:.2f}  {:.0f} s".format(*row)
            print(line, flush=True)
        if stop or now - saved > 60:
            run.save()
            saved = now


def ship(args: argparse.Namespace) -> None:
    """Write the assets from the checkpoint of a finished run."""
    run = Run(args)
    if run.step < run.steps and not args.export_only:
        print("paused; the same command goes on")
        return
    facts = {**run.settings, "seen": run.windows, "minutes": run.seconds / 60}
    export(
        run.model.whole(),
        run.model.captions,
        CONFIG,
        facts,
        (FIRST, SECOND),
        run.curve,
        args.assets,
    )


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.export_only:
        train(args)
    ship(args)


if __name__ == "__main__":
    main()
