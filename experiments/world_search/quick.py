"""What judge.py scores, from the weights alone and in seconds: no store, no measures, no open_clip.

    python experiments/world_search/quick.py RUN --images 8

Windows of the network's size every 32 pixels; logits are summed, resized and compared as the
protocol does with one prompt a class. Scores and classes equal judge.py's to the digit shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from world import World, Worn

from sclip_lab.data.patchwork import CLASSES

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1) * 255
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1) * 255
HEADS = 3


class Net:
    def __init__(self, weights: dict[str, Tensor], layers: int) -> None:
        self.w, self.layers = {k: v.float() for k, v in weights.items()}, layers

    def ln(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def mlp(self, i: int, x: Tensor) -> Tensor:
        b = f"visual.transformer.resblocks.{i}."
        h = self.linear(b + "mlp.c_fc", self.ln(b + "ln_2", x))
        return self.linear(b + "mlp.c_proj", h * torch.sigmoid(1.702 * h))

    def parts(self, i: int, x: Tensor) -> dict[str, Tensor]:
        b = f"visual.transformer.resblocks.{i}."
        n = self.ln(b + "ln_1", x)
        qkv = F.linear(n, self.w[b + "attn.in_proj_weight"], self.w[b + "attn.in_proj_bias"])
        cut = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (*qkv.chunk(3, -1), n)]
        return dict(zip(("q", "k", "v", "x"), cut, strict=True))

    def out(self, i: int, weights: Tensor, v: Tensor) -> Tensor:
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.linear(f"visual.transformer.resblocks.{i}.attn.out_proj", mixed)

    def embed(self, pixels: Tensor) -> Tensor:
        x = F.conv2d((pixels - MEAN) / STD, self.w["visual.conv1.weight"], stride=8)
        x = x.flatten(2).transpose(1, 2)
        first = self.w["visual.class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.w["visual.positional_embedding"]
        return self.ln("visual.ln_pre", x)

    def head(self, x: Tensor) -> Tensor:
        return F.normalize(self.ln("visual.ln_post", x) @ self.w["visual.proj"], dim=-1)


def soft(a: Tensor, b: Tensor, bias: Tensor | float = 0.0, temperature: float = 1.0) -> Tensor:
    return (a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5 / temperature + bias).softmax(-1)


def maps(p: dict[str, Tensor], early: Tensor, side: int, block: int) -> dict[str, Tensor]:
    """Attention of each variant in the last block."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    place = place.view(-1, 2).float()
    far = (place[:, None] - place[None]).abs().amax(-1)
    near = F.pad(torch.where(far <= 1, 0.0, -torch.inf), (1, 0, 1, 0), value=0.0)
    near[0, 1:], near[1:, 0] = 0.0, -torch.inf
    gauss = F.pad(torch.exp(-(torch.cdist(place, place) ** 2) / 50), (1, 0, 1, 0), value=0.0)
    generator = torch.Generator().manual_seed(1009 * block)  # as csa_random, seed 0
    wide = p["x"].transpose(1, 2).flatten(2)
    r = wide @ torch.randn(96, 96, generator=generator) / 96**0.5
    r = r.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    q, k = soft(p["q"], p["q"]), soft(p["k"], p["k"])
    eye = torch.eye(q.shape[-1]).expand_as(q)
    return {
        "vanilla": soft(p["q"], p["k"]),
        "sharpened": soft(p["q"], p["k"], temperature=0.5),
        "maskclip": eye,
        "local": soft(p["q"], p["k"], near),
        "early": early,
        "csa_q": q,
        "csa_k": k,
        "csa_identity": soft(p["x"], p["x"]),
        "csa_random": soft(r, r),
        "csa_mean": (q + k) / 2,
        "csa": q + k,
        "naclip": soft(p["k"], p["k"], gauss),
    }


def features(net: Net, pixels: Tensor, side: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unit embeddings of all tokens by variant, and the last block's attention by variant; a name
    with a minus has residual and MLP dropped."""
    x, last = net.embed(pixels), net.layers - 1
    source, states = max(1, round(net.layers * 3 / 12)) - 1, []
    for i in range(last):
        states.append(x)
        p = net.parts(i, x)
        a = soft(p["q"], p["k"])
        if i == source:
            early = a
        x = x + net.out(i, a, p["v"])
        x = x + net.mlp(i, x)
    p = net.parts(last, x)
    found, every = {}, maps(p, early, side, last)
    for name, a in every.items():
        o = net.out(last, a, p["v"])
        if name != "naclip":
            y = x + o
            found[name] = net.head(y + net.mlp(last, y))
        if name in ("vanilla", "maskclip", "local", "early", "csa_q", "csa_k", "csa", "naclip"):
            found[name + " -"] = net.head(o)
    for depth in (2, 4):
        y = states[net.layers - depth] if depth > 1 else x
        for i in range(net.layers - depth, net.layers):
            p = net.parts(i, y)
            a = soft(p["q"], p["q"]) + soft(p["k"], p["k"])
            y = y + net.out(i, a, p["v"])
            y = y + net.mlp(i, y)
        found[f"csa last {depth}"] = net.head(y)
    return found, every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--start", type=int, default=1_000_000)
    parser.add_argument("--worn", type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    state = torch.load(args.run / "state.pt", weights_only=True)
    world = {k: tuple(v) if isinstance(v, list) else v for k, v in state["world"].items()}
    if args.worn is not None:
        world["worn"] = args.worn
    data, side = Worn(World(**world), args.images, args.start), state["side"] // 8
    net, names = Net(state["model"], state["layers"]), state["names"]
    counts: dict[str, np.ndarray] = {}
    leak: dict[str, list[float]] = {}
    with torch.inference_mode():
        for s in (data[i] for i in range(args.images)):
            pixels = torch.from_numpy(s.image).permute(2, 0, 1).float()
            h, w = s.mask.shape
            size = state["side"]
            tops, lefts = range(0, h - size + 1, 32), range(0, w - size + 1, 32)
            areas = [(slice(t, t + size), slice(x, x + size)) for t in tops for x in lefts]
            found, every = features(net, torch.stack([pixels[:, *a] for a in areas]), side)
            mask = torch.from_numpy(s.mask)
            labels = torch.stack([mask[a][4::8, 4::8].flatten() for a in areas])
            other = (labels[:, :, None] != labels[:, None]).float()
            for name, a in every.items():
                inner = a[:, :, 1:, 1:].mean(1)
                inner = inner / inner.sum(-1, keepdim=True)
                leak.setdefault(name, []).append(float((inner * other).sum(-1).mean()))
            for name, y in found.items():
                total, times = torch.zeros(len(names), h, w), torch.zeros(h, w)
                logits = (y[:, 1:] @ names.T).transpose(1, 2).unflatten(-1, (side, side))
                big = F.interpolate(logits, (size, size), mode="bilinear")
                for area, one in zip(areas, big, strict=True):
                    total[:, *area] += one
                    times[area] += 1
                guess = (total / times).argmax(0).numpy()
                table = np.bincount(s.mask.ravel() * 16 + guess.ravel(), minlength=256)
                counts[name] = counts.get(name, 0) + table.reshape(16, 16)
    iou = {
        name: 100 * np.diag(c) / np.where(union := c.sum(0) + c.sum(1) - np.diag(c), union, np.nan)
        for name, c in counts.items()
    }
    print(f"# {args.run.name}, step {state['step']}, {args.images} scenes, worn {world['worn']}")
    miou = {name: float(np.nanmean(values)) for name, values in iou.items()}
    for name, score in miou.items():
        extra = f" leak {np.mean(leak[name]):.2f}" if name in leak else ""
        print(f"{name:14} {score:5.1f} {score / max(miou['csa'], 1e-9):5.2f}{extra}")
    for name in ("csa", "naclip -"):
        print(name, " ".join(f"{c} {v:.0f}" for c, v in zip(CLASSES, iou[name], strict=True)))


if __name__ == "__main__":
    main()
