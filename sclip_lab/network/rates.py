"""How much faster this machine multiplies matrices in bf16 than in fp32: measured, and remembered.

A processor with AMX or a GPU with tensor cores takes a fraction of the time; one with AVX512_BF16
alone about half; others emulate it. ``precision=bf16_fast`` depends on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from functools import cache, partial
from pathlib import Path

import torch

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.network.linear import Linear

# Tokens of six windows of ViT-B/16, and the two products of its MLP.
SHAPES = ((1182, 768, 3072), (1182, 3072, 768))
ROUNDS = 9
CACHE_VARIABLE = "SCLIP_LAB_CACHE"


def bf16_gain(device: torch.device) -> float:
    """Return how many times faster than in fp32 a device multiplies matrices in bf16.

    Measured once for each kind of device, number of threads and release of torch, and kept in
    ``$SCLIP_LAB_CACHE`` (default ~/.cache/sclip_lab): a gain near a limit must not fall on another
    side of it in the next process.
    """
    return _gain(_kind(device), device)


@cache
def _gain(kind: str, device: torch.device) -> float:
    folder = os.environ.get(CACHE_VARIABLE) or os.path.join("~", ".cache", "sclip_lab")
    path = Path(os.path.expanduser(folder)) / "bf16_gain.json"
    try:
        gains = {str(k): float(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):  # not there yet, or damaged
        gains = {}
    if kind not in gains:
        gains[kind] = round(rate(device, torch.bfloat16) / rate(device, torch.float32), 2)
        # If the file cannot be written, the next process measures anew.
        with contextlib.suppress(OSError, LabError):
            files.write_text(path, json.dumps(gains, indent=1) + "\n")
    return gains[kind]


@torch.inference_mode()
def rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure operations a second in products of ``SHAPES``. The best of several rounds counts, so
    that the first, in which weights are laid out, does not."""
    best = 0.0
    is_gpu = device.type == "cuda"
    wait = partial(torch.cuda.synchronize, device) if is_gpu else lambda: None
    for rows, inner, columns in SHAPES:
        x = torch.randn(rows, inner, device=device).to(dtype)
        weight, layer = torch.randn(columns, inner, device=device).to(dtype), Linear()
        for _ in range(ROUNDS):
            wait()
            start = time.perf_counter()
            layer(x, weight, None)
            wait()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def _kind(device: torch.device) -> str:
    """Name everything that the gain depends on."""
    name = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return f"{name}, {threads} threads, torch {torch.__version__.partition('+')[0]}"


def processor() -> str:
    """Return the processor's name, family and model, and its instructions that multiply bf16."""
    fields = {"model name": platform.processor() or platform.machine()}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        fields |= {name.strip(): text.strip() for name, _, text in pairs}
    flags = fields.get("flags", "").split()
    instructions = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    place = f"family {fields.get('cpu family')} model {fields.get('model')}"
    return f"{fields['model name']}, {place}, {' '.join(instructions) or 'no bf16 products'}"
