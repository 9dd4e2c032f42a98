"""Memory that a readout takes on each side."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import reference
from benchmarks.tasks import (
    coco_object,
)
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.readouts.cosine import unit


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
