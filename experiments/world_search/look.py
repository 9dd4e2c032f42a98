"""Where a network's evidence is: accuracy and attention on worn and unworn patches of one class."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from quick import Net, features
from world import World, Worn

run, images = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
state = torch.load(run / "state.pt", weights_only=True)
world = {k: tuple(v) if isinstance(v, list) else v for k, v in state["world"].items()}
data, size = Worn(World(**world), images, 1_000_000), state["side"]
net, names, side = Net(state["model"], state["layers"]), state["names"], size // 8
rows: dict[str, list[list[float]]] = {}
mass: dict[str, list[list[float]]] = {}
with torch.inference_mode():
    for s in (data[i] for i in range(images)):
        a = s.image[:size, :size].reshape(side, 8, side, 8, 3).transpose(0, 2, 1, 3, 4)
        m = s.mask[:size, :size].reshape(side, 8, side, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
        contrast = a.reshape(side * side, 64, 3).astype(float).std(1).mean(1)
        pure = torch.from_numpy((m == m[:, :1]).all(1))
        seen, worn = torch.from_numpy(contrast > 10) & pure, torch.from_numpy(contrast < 6) & pure
        label = torch.from_numpy(m[:, 0].astype(int))
        pixels = torch.from_numpy(s.image[:size, :size].copy()).permute(2, 0, 1).float()[None]
        found, every = features(net, pixels, side)
        for name, y in found.items():
            right = ((y[0, 1:] @ names.T).argmax(-1) == label).float()
            sums = (right[seen].sum(), seen.sum(), right[worn].sum(), worn.sum())
            rows.setdefault(name, []).append([float(value) for value in sums])
        same = (label[:, None] == label[None]).float()
        for name, w in every.items():
            w = w[0, :, 1:].mean(0)
            w = w / w.sum(-1, keepdim=True)
            own = float(w[:, 1:].diagonal()[worn].mean())
            inner = w[:, 1:]
            mass.setdefault(name, []).append(
                [
                    float(w[worn, 0].mean()),
                    own,
                    float((inner * same * seen)[worn].sum(1).mean()),
                    float((inner * same * worn)[worn].sum(1).mean()),
                    float((inner * (1 - same))[worn].sum(1).mean()),
                    float((same * seen)[worn].sum() / (same * (seen | worn))[worn].sum()),
                ]
            )
print("accuracy on unworn, on worn patches")
for name, r in rows.items():
    a = np.sum(r, axis=0)
    print(f"{name:14} {a[0] / a[1]:.2f} {a[2] / a[3]:.2f}")
print("mass from worn patches: class token, itself, unworn like, worn like, others;")
print("and the share of unworn ones among their like")
for name, r in mass.items():
    print(f"{name:14}", np.round(np.nanmean(r, axis=0), 2))
