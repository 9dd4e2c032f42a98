"""Train patchwork_vit from scratch on Patchwork, with captions and never with masks.

    python experiments/train_patchwork.py

The run can be cut off at any moment and goes on from its last checkpoint when the same command is
typed again: the batch of a step depends on (seed, step, worker) alone. When it is done, weights,
architecture, curve and model card are written to sclip_lab/assets/patchwork_vit.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from sclip_lab import atomic
from sclip_lab.errors import LabError
from sclip_lab.training.export import export
from sclip_lab.training.muon import Muon
from sclip_lab.training.patchwork import (
    WINDOW,
    Captions,
    contrastive_loss,
    draw_windows,
    scene_pool,
    to_tensor,
    top1,
)

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": WINDOW,
        "patch_size": 8,
        "layers": 8,
        "width": 96,
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

# What makes a run the same run: all options but where it lives and when to pause.
SETTINGS = (
    *("scenes", "windows", "workers", "batch", "lr", "muon", "weight_decay", "dropout"),
    *("short", "warmup", "decay", "seed"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--out", type=Path, default=ROOT / "results/train_patchwork", help="checkpoints")
    option("--assets", type=Path, default=ROOT / "sclip_lab/assets/patchwork_vit")
    option("--scenes", type=int, default=20_000, help="different train scenes")
    option("--windows", type=int, default=200_000, help="windows seen in all")
    option("--minutes", type=float, default=math.inf, help="stop after this long; resumable")
    option("--workers", type=int, default=2, help="processes that share a step")
    option("--threads", type=int, default=1, help="threads of each")
    option("--batch", type=int, default=96, help="windows of each worker in a step")
    option("--lr", type=float, default=2e-3, help="AdamW: embeddings, norms, text tower's ends")
    option("--muon", type=float, default=0.02, help="Muon's rate: matrices inside the blocks")
    option("--weight-decay", type=float, default=0.05, help="of Muon")
    option("--dropout", type=float, default=0.5, help="share of patches hidden in training")
    option("--short", type=float, default=0.5, help="share of captions with one name")
    option("--warmup", type=int, default=100, help="steps of rising rate")
    option("--decay", type=float, default=0.3, help="last share of the run, with falling rate")
    option("--seed", type=int, default=0)
    option("--export-only", action="store_true", help="write the assets from the checkpoint")
    return parser.parse_args()


def build(dropout: float = 0.0) -> open_clip.CLIP:
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "patch_dropout": dropout}}
    return open_clip.CLIP(**config)


def write_captions() -> Captions:
    text = CONFIG["text_cfg"]
    encode = open_clip.SimpleTokenizer().encode
    return Captions(encode, text["context_length"], text["vocab_size"])


def build_optimizers(model: torch.nn.Module, args: argparse.Namespace) -> list[Any]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    named = dict(model.named_parameters())
    inner = [n for n, p in named.items() if "resblocks" in n and p.ndim == 2]
    outer = [p for n, p in named.items() if n not in inner]
    return [
        Muon([named[n] for n in inner], lr=args.muon, weight_decay=args.weight_decay),
        torch.optim.AdamW(outer, lr=args.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0),
    ]


def average_gradients(model: open_clip.CLIP, rows: list[int], workers: int) -> None:
    """Mean over the workers; of the token embedding only the rows that captions use."""
    parameters = dict(model.named_parameters())
    embedding = parameters.pop("token_embedding.weight").grad
    assert embedding is not None
    grads = [p.grad for p in parameters.values() if p.grad is not None] + [embedding[rows]]
    flat = torch.cat([grad.flatten() for grad in grads]) / workers
    torch.distributed.all_reduce(flat)
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
    embedding[rows] = grads[-1]


class Run:
    """One worker's model, optimisers and place in the run.

    Only the first worker keeps the checkpoint and the curve.

    Raises:
        LabError: the folder holds a run with other settings.
    """

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        torch.manual_seed(args.seed)
        self.args, self.rank = args, rank
        self.model, self.captions = build(args.dropout), write_captions()
        self.optimizers = build_optimizers(self.model, args)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.seconds = 0, 0.0
        self.windows_per_step = args.batch * args.workers
        self.steps = args.windows // self.windows_per_step
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
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
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
        atomic.write(self.args.out / "state.pt", partial(torch.save, state))

    def take_step(self, images: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
        """Train on one batch, a function of (seed, step, rank).

        Returns:
            The loss, and top-1 on the batch.
        """
        args, model, step = self.args, self.model, self.step
        rng = np.random.default_rng([args.seed, step, self.rank])
        torch.manual_seed(step * args.workers + self.rank)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * self.factor
        pixels, present = draw_windows(images, masks, args.batch, rng)
        image = model.encode_image(to_tensor(pixels), normalize=True)
        ids, named = self.captions.draw(present, args.short, rng)
        text = model.encode_text(ids, normalize=True)
        loss = contrastive_loss(image, text, model.logit_scale.exp(), present, named)
        loss.backward()
        if args.workers > 1:
            average_gradients(model, self.captions.token_ids, args.workers)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        model.logit_scale.data.clamp_(0, math.log(100))
        self.step += 1
        return loss.item(), top1(image, self.captions.name_features(model), present)

    @property
    def factor(self) -> float:
        """Share of the full rate at this step: up, flat, down."""
        up = (self.step + 1) / self.args.warmup
        return min(1.0, up, (self.steps - self.step) / (self.args.decay * self.steps))


def train(rank: int, args: argparse.Namespace) -> None:
    """One worker's share of the run."""
    torch.set_num_threads(args.threads)
    if args.workers > 1:
        meeting = f"file://{args.out.resolve()}/meeting-{os.getppid()}"
        torch.distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=args.workers
        )
    images, masks = scene_pool(args.out, args.scenes, args.threads)
    run = Run(args, rank)
    begin = last = saved = time.monotonic()
    recent: list[tuple[float, float]] = []
    stop = run.step >= run.steps
    while not stop:
        recent.append(run.take_step(images, masks))
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        verdict = torch.tensor(int(run.step >= run.steps or now - begin > 60 * args.minutes))
        if args.workers > 1:
            torch.distributed.broadcast(verdict, 0)  # or a slower worker would wait for ever
        stop = bool(verdict)
        if run.step % 50 == 0:
            loss, hits = np.mean(recent, axis=0)
            row = [run.step * run.windows_per_step, loss, hits, run.factor, run.seconds]
            run.curve.append([round(float(value), 4) for value in row])
            recent = []
            if rank == 0:
                print(
                    "windows {:.0f}  loss {:.3f}  top-1 {:.3f}  rate {:.2f}  {:.0f} s".format(*row)
                )
        if rank == 0 and (stop or now - saved > 60):
            run.save()
            saved = now
    if args.workers > 1:
        torch.distributed.destroy_process_group()


def ship(args: argparse.Namespace) -> None:
    """Write the assets from the checkpoint of a finished run."""
    state = torch.load(args.out / "state.pt", weights_only=True)
    if state["step"] < args.windows // (args.batch * args.workers) and not args.export_only:
        print("paused; the same command goes on")
        return
    model = build().eval()
    model.load_state_dict(state["model"])
    facts = {
        **state["settings"],
        "seen": state["step"] * args.batch * args.workers,
        "minutes": state["seconds"] / 60,
    }
    export(model, write_captions(), CONFIG, facts, state["curve"], args.assets)


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.export_only:
        scene_pool(args.out, args.scenes, args.workers)
        if args.workers == 1:
            train(0, args)
        else:
            torch.multiprocessing.start_processes(
                train, (args,), args.workers, start_method="spawn"
            )
    ship(args)


if __name__ == "__main__":
    main()
