"""Peak memory: of a readout on each side, and of every protocol with its own methods.

python -m benchmarks.memory [--out docs] [--protocols NAME ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import reference
from benchmarks.tasks import coco_object
from sclip_lab.config.registry import (
    load_attention,
    load_backbone,
    load_group,
    load_guidance,
    load_protocol,
)
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.segmentation.decoder import Readout, steps
from sclip_lab.segmentation.readouts.cosine import unit
from sclip_lab.segmentation.segment import segment


def memory_in_use(peak: bool = False, reset_peak: bool = False) -> int:
    """Resident bytes of this process, now or at their peak, by Linux's own account.

    Not ``getrusage``: its maximum outlives exec, so a child would start at its parent's peak.
    """
    process = Path("/proc/self")
    if reset_peak:
        (process / "clear_refs").write_text("5")
    key = "VmHWM:" if peak else "VmRSS:"
    lines = (process / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def growth(call: Callable[..., Any], *arguments: Any) -> int:
    """Bytes by which a call raises the peak of this process."""
    before = memory_in_use(reset_peak=True)
    call(*arguments)
    return memory_in_use(peak=True) - before


def readout_memory(side: str) -> int:
    """Bytes by which the peak of this process grows in one readout at COCO-Object's size."""
    job = coco_object()
    torch.manual_seed(0)
    queries = len(job.query_classes)
    patches = torch.randn(job.plan.num_windows, 14, 14, 512)
    text = torch.randn(queries, 512)
    text = text / text.norm(dim=-1, keepdim=True)
    torch.mm(text, text.T)  # libraries allocate their own buffers at their first use
    before = memory_in_use(reset_peak=True)
    with torch.inference_mode():
        if side == "ours":
            readout = Readout(job.protocol, text, job.query_classes)
            readout.predict(job.plan, job.plan.lay_out(unit(patches) @ text.T))
        else:
            normalised = patches / patches.norm(dim=-1, keepdim=True)
            total = torch.zeros(1, queries, *job.resized)
            for part, (y, x) in zip(
                normalised,
                itertools.product(job.plan.rows.starts, job.plan.columns.starts),
                strict=True,
            ):
                logits = (part @ text.T).permute(2, 0, 1)[None]
                total[:, :, y : y + 224, x : x + 224] += torch.nn.functional.interpolate(
                    logits, size=(224, 224), mode="bilinear"
                )
            whole = torch.nn.functional.interpolate(total, size=job.target, mode="bilinear")[0]
            reference.decide(whole, job.query_classes, 50.0, 0.1)
    return memory_in_use(peak=True) - before


def memory_in_child(side: str) -> int:
    command = [sys.executable, "-m", "benchmarks.run", "--readout-memory", side]
    child = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return int(child.stdout)


# Protocol -> its own methods.
METHODS: dict[str, tuple[str, ...]] = {
    "cdam": ("cdam", "cdam_sclip", "cdam_clearclip", "cdam_gem"),
    "clearclip": ("clearclip",),
    "cliper": ("cliper",),
    "cliptrase": ("cliptrase",),
    "dih": ("dih",),
    "freecp": ("clearclip", "gem"),
    "fsa": ("fsa_proxy",),
    "gem": ("gem",),
    "gla": ("gla", "gla_proxy"),
    "itaclip": ("itaclip",),
    "lposs": ("maskclip",),
    "lposs_plus": ("maskclip",),
    "maskclip": ("maskclip",),
    "naclip": ("naclip",),
    "naclip_pamr": ("naclip",),
    "pearl": ("pearl",),
    "proxyclip": ("proxyclip",),
    "radseg": ("scra",),
    "resclip": ("resclip",),
    "rfclip": ("rfclip",),
    "sc_clip": ("scclip",),
    "sclip": ("vanilla", "csa"),
    "sclip_paper": ("csa",),
    "segearth": ("segearth",),
    "sfp": ("sfp",),
    "surgery": ("surgery",),
    "unified": ("registers", "rfclip", "scclip", "cliper", "itaclip"),
}
# Protocol -> the second network that its methods look at, where it is not dino_vitb8.
GUIDES = {"lposs": "dino_vitb16", "lposs_plus": "dino_vitb16"}
# Data set whose settings and names are taken -> (height, width) of a photo.
SIZES = {"coco_object": (480, 640), "cityscapes": (1024, 2048)}


def method_peak(protocol_name: str, method: str, dataset: str) -> dict[str, float]:
    """Seconds and peak bytes of this process that labels one photo with ViT-B/16, random weights.

    All windows of the photo are run. Prompts are one a name: texts are embedded in batches of the
    same size however many there are.
    """
    vocabulary = load_group("dataset", dataset)["vocabulary"]
    protocol = replace(load_protocol(protocol_name, dataset), templates=("a photo of a {}.",))
    names = Vocabulary.named(protocol.vocabulary or vocabulary)
    backbone = load_backbone("ViT-B-16-quickgelu", seed=0, device="cpu")
    variant = load_attention(method, dataset=dataset, protocol=protocol_name)
    guide = None
    if "guidance" in variant.uses | steps(protocol).uses:
        guide = load_guidance(
            GUIDES.get(protocol_name, "dino_vitb8"), pretrained=False, device="cpu"
        )
    coarse = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, SIZES[dataset][::-1], interpolation=cv2.INTER_CUBIC)
    loaded, start = memory_in_use(peak=True), time.perf_counter()
    segment(backbone, photo, names, variant, protocol, guide)
    seconds = time.perf_counter() - start
    return {"loaded": loaded, "peak": memory_in_use(peak=True), "seconds": round(seconds, 1)}


def method_peaks(path: Path, protocols: Sequence[str]) -> None:
    """`method_peak` of each protocol's methods, each in a process of its own, into a file.

    Peaks that the file has are kept, so that a run that was stopped goes on.
    """
    peaks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for protocol in protocols:
        for method, dataset in itertools.product(METHODS[protocol], SIZES):
            key = f"{protocol} {method} {dataset}"
            if key in peaks:
                continue
            command = [sys.executable, "-m", "benchmarks.memory", *key.split(" ")]
            root = Path(__file__).parents[1]
            child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
            peaks[key] = json.loads(child.stdout.splitlines()[-1])
            print(key, peaks[key], flush=True)
            path.write_text(json.dumps(peaks, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of every protocol with its methods")
    parser.add_argument("one", nargs="*", help="protocol, method and data set: measure these alone")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the figures")
    parser.add_argument("--protocols", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(method_peak(*arguments.one)))
        return
    method_peaks(arguments.out / "performance-memory.json", arguments.protocols)


if __name__ == "__main__":
    main()
