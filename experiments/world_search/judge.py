"""Score the card's variants, kept and dropped, on train scenes that no training run saw.

python experiments/world_search/judge.py RUN --images 12
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from train import config
from world import World, Worn

import sclip_lab as lab
from sclip_lab.data.patchwork import CLASSES
from sclip_lab.results import scores

KEPT = (
    *("vanilla", "sharpened", "maskclip", "local", "early"),
    *("csa_q", "csa_k", "csa_identity", "csa_random", "csa_mean", "csa"),
)
DROPPED = ("vanilla", "maskclip", "local", "early", "csa_q", "csa_k", "csa")
DEEPER = ("last 2", "last 3", "last 4")


def cells(short: bool) -> dict[str, lab.Variant]:
    found = {name: lab.load_attention(name) for name in KEPT}
    found |= {name: lab.load_attention(name) for name in ("clearclip", "naclip")}
    if not short:
        for name in DROPPED:
            found[f"{name}, dropped"] = lab.load_attention(name, residual=False, mlp=False)
        found |= {f"csa, {n}": lab.load_attention("csa", layers=n) for n in DEEPER}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--start", type=int, default=1_000_000)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--stride", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    state = torch.load(args.run / "state.pt", weights_only=True)
    world = World(**{k: tuple(v) if isinstance(v, list) else v for k, v in state["world"].items()})
    data = Worn(world, args.images, args.start)
    with tempfile.TemporaryDirectory() as folder:
        file, about = Path(folder, "weights.safetensors"), Path(folder, "config.json")
        safetensors.torch.save_file(state["model"], file)
        about.write_text(json.dumps(config(state["side"], state["layers"])))
        backbone = lab.load_backbone("found", architecture=str(about), checkpoint=str(file))
        protocol = lab.load_protocol(
            "sclip", "patchwork", crop_size=state["side"], stride=args.stride
        )
        variants = cells(args.short)
        specs = [lab.Spec(v, backbone, protocol, data) for v in variants.values()]
        df = lab.evaluate(specs, Path(folder, "store"), progress=False)
    miou, iou = 100 * scores.miou(df), scores.iou(df)
    columns = [next(c for c in miou.index if spec.key.startswith(c)) for spec in specs]
    value = {name: float(miou[column]) for name, column in zip(variants, columns, strict=True)}
    print(f"# {args.run.name}, step {state['step']}, {args.images} scenes from {args.start}")
    for name, score in value.items():
        print(f"{name:24} {score:5.1f} {score / value['csa']:5.2f}")
    for name in ("csa", "naclip"):
        mine = iou[iou["spec"] == columns[list(variants).index(name)]]["iou"]
        print(name, " ".join(f"{c} {100 * v:.0f}" for c, v in zip(CLASSES, mine, strict=True)))


if __name__ == "__main__":
    main()
