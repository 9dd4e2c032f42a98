"""Judge networks of `experiments.patchwork.train` by what SCLIP reports of CLIP.

Writes a table in Markdown::

    python -m experiments.patchwork.judge sclip_lab/assets/patchwork_vit [other assets ...]

It uses scenes of the test split under the protocol conf/protocol/sclip.yaml.
docs/embedded-world.md has the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.config.sweeper import sweep
from sclip_lab.data.patchwork import Patchwork
from sclip_lab.evaluation.observers import Diagnostics

DROPPED = ("vanilla", "maskclip", "local", "early", "csa_q", "csa_k", "csa")
DEEPER = ("last 2", "last 3", "last 4")
MEASURES = ("spatial_invariance", "inter_class_mass")
BARE: dict[str, Any] = {"residual": False, "mlp": False}


def card() -> list[str]:
    """Names of the card's variants, in the order of conf/experiment/card.yaml."""
    return [job.hydra.runtime.choices.attention for job in sweep(["experiment=card"])]


def variants(names: Sequence[str]) -> dict[str, lab.Variant]:
    """Map the name of each row of the table to its variant."""
    plain = {name: lab.load_attention(name) for name in (*names, "naclip")}
    dropped = {f"{name}, both dropped": lab.load_attention(name, **BARE) for name in DROPPED}
    deeper = {f"csa, {part}": lab.load_attention("csa", layers=part) for part in DEEPER}
    return {**plain, **dropped, **deeper}


# Differences that the bars of docs/embedded-world.md ask for: the first should be above the second.
PAIRS = (
    *((f"{a}, both dropped", f"{b}, both dropped")
      for a in ("csa_q", "csa_k", "csa") for b in ("maskclip", "local", "vanilla")),
    ("csa_q, both dropped", "csa"),  # the first is ClearCLIP
    ("naclip", "csa"),
    *(("csa", f"csa, {part}") for part in DEEPER),
)  # fmt: skip


def judge(assets: Path, store: Path, images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables of text: every variant's score x100 with its interval, its share of CSA's score,
    its measures and its worst class; and the differences of ``PAIRS`` with their intervals."""
    backbone = lab.load_backbone(
        "judged",
        architecture=str(assets / "config.json"),
        checkpoint=str(assets / "model.safetensors"),
    )
    protocol, data = lab.load_protocol("sclip", "patchwork"), Patchwork("test", images)
    names = card()
    rows = variants(names).items()
    specs = [lab.Spec(v, backbone, protocol, data, label=name) for name, v in rows]
    observers = [Diagnostics(MEASURES, images=min(16, images))]
    df = lab.evaluate(specs, store, observers=observers, progress=False)
    summary = results.summary(df).set_index("attention")
    worst = results.iou(df).sort_values("iou").groupby("attention", observed=True).first()
    measured = results.diagnostics(store, [spec.key for spec in specs])
    means = measured.groupby(["attention", "measure"], observed=True)["value"].mean().unstack()
    scores: dict[Any, Any] = summary.to_dict("index")
    by_variant = {
        name: {
            "mIoU": f"{100 * row['miou']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            "of CSA": f"{row['miou'] / scores['csa']['miou']:.2f}",
            **{measure: f"{means[measure][name]:.2f}" for measure in MEASURES},
            "worst class": f"{worst['class'][name]} {100 * worst['iou'][name]:.0f}",
        }
        for name, row in scores.items()
    }
    rank = means.loc[names, "inter_class_mass"].corr(summary.loc[names, "miou"], "spearman")
    gaps = {}
    for a, b in PAIRS:
        gap = results.difference(df, a, b).iloc[0]
        low, high = 100 * gap["low"], 100 * gap["high"]
        gaps[f"{a} less {b}"] = {
            "mIoU": f"{100 * gap['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        }
    gaps["Spearman of inter-class mass with mIoU, the card's variants"] = {"mIoU": f"{rank:+.2f}"}
    return pd.DataFrame(by_variant).T, pd.DataFrame(gaps).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path, nargs="+", help="folders with weights and config.json")
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for assets in args.assets:
        with tempfile.TemporaryDirectory() as store:
            tables = judge(assets, Path(store), args.images)
        print(f"\n{assets}")
        for table in tables:
            lines = [["", *table.columns], ["---"] * (1 + table.shape[1])]
            lines += [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
            print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
