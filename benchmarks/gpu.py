"""Measure a day's worth on a GPU by one command. Each part has a time limit and is kept.

    python -m benchmarks.gpu [--minutes 8] [--device cuda|cpu] [--out docs]

1. ``pytest -m gpu``: labels equal between CPU and GPU, bf16, every variant once.
2. The evaluator itself, from JPEG files to confusion counts, on noise photos and networks of
   random weights (time does not depend on either): photos of VOC's and of Cityscapes' size; 1, 12
   and 48 variants; ViT-B/16 and L/14; 20, 81 and 171 classes. As many photos as fit into a part's
   time, and from these the seconds of a whole data set.
3. The plain loop of `benchmarks.reference` on the same device, one variant.

It writes gpu.json after every part, and performance-gpu.md from it. On a CPU it shows that every
part ends, with ViT-B/32 and B/16 on one photo; its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import reference, report
from benchmarks.costs import block_operations
from benchmarks.tasks import VARIANTS, random_text
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import load_attention
from sclip_lab.core.timings import Timings
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network import rates
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.protocol import Protocol

# Name, photos of the data set, size of a photo, short side.
SETS = {"voc": (1449, (375, 500), 336), "cityscapes": (500, (1024, 2048), 560)}
NAMES = {20: "sclip_voc20", 81: "sclip_coco_object", 171: "sclip_coco_stuff"}
# The two networks of the parts on each kind of device.
NETWORKS = {
    "cuda": ("ViT-B-16-quickgelu", "ViT-L-14-quickgelu"),
    "cpu": ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu"),
}
# Number of names -> kernels of one readout, when each photo of each variant had its own.
BEFORE = {30: 134, 113: 663}
TESTS_SECONDS = 120.0  # or more: the start of pytest alone takes longer than a short part has
GOAL_SECONDS = 10.0  # of 12 variants on VOC with ViT-B/16 and 20 classes, on one H200


def write_photos(folder: Path, images: int, size: tuple[int, int], classes: int) -> None:
    """JPEG photos of smoothed noise and masks of stripes, a few of each under many names."""
    rng = np.random.default_rng(0)
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    photos, masks = [], []
    for _ in range(8):
        coarse = rng.integers(0, 256, (21, 28, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        stripes = rng.integers(0, classes, (1, size[1]))
        photos.append(cv2.imencode(".jpg", photo)[1].tobytes())
        masks.append(
            cv2.imencode(".png", np.repeat(stripes, size[0], axis=0).astype(np.uint8))[1].tobytes()
        )
    for i in range(images):
        (folder / "images" / f"{i:05}.jpg").write_bytes(photos[i % 8])
        (folder / "masks" / f"{i:05}.png").write_bytes(masks[i % 8])


def variants(count: int) -> list[Variant]:
    """``count`` variants of the last block: the benchmarks' twelve, then other temperatures."""
    chosen = [load_attention(name) for name in VARIANTS[:count]]
    return chosen + [
        load_attention("csa", temperature=1 + (i + 1) / 64) for i in range(count - len(chosen))
    ]


def grouped(seconds: dict[str, float], chosen: list[Variant]) -> dict[str, float]:
    """Seconds by stage, with those of all rewritten blocks added up as "last blocks"."""
    total: dict[str, float] = {}
    names = {variant.name for variant in chosen}
    for stage, value in seconds.items():
        name = "last blocks" if stage in names else stage
        total[name] = total.get(name, 0.0) + value
    return total


class Measure:
    """Evaluations on one device.

    Args:
        device: ``cuda`` or ``cpu``.
        folder: for photos and stores.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device = torch.device(device)
        self.folder = folder
        self._networks: dict[str, Backbone] = {}
        self._count = itertools.count()

    def network(self, name: str) -> Backbone:
        if name not in self._networks:
            self._networks.clear()  # one at a time
            self._networks[name] = load_backbone(
                name, seed=0, precision="bf16_fast", device=str(self.device)
            )
        return self._networks[name]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def photos(self, kind: str, classes: int, images: int) -> Folder:
        folder = self.folder / f"{kind}-{classes}"
        if not folder.exists():
            total, size, _ = SETS[kind]
            write_photos(folder, total if self.device.type == "cuda" else 1, size, classes)
        name = f"{kind}{images}"
        return Folder(name, folder, "images", "masks", NAMES[classes], ".jpg", ".png", limit=images)

    def seconds(
        self, kind: str, network: str, count: int, classes: int, images: int, timings: Timings
    ) -> float:
        """Wall-clock seconds of one evaluation, store and decoding included."""
        protocol = Protocol(short_side=SETS[kind][2], templates=("{}",))
        data, backbone = self.photos(kind, classes, images), self.network(network)
        specs = [Spec(variant, backbone, protocol, data) for variant in variants(count)]
        store = self.folder / f"store{next(self._count)}"
        self.wait()
        start = time.perf_counter()
        evaluate(specs, store, progress=False, timings=timings)
        self.wait()
        return time.perf_counter() - start

    def evaluation(
        self, kind: str, network: str, count: int, classes: int, seconds: float
    ) -> dict[str, Any]:
        """Evaluate as many photos as fit into ``seconds``: stages, memory and share of the rate."""
        most = SETS[kind][0] if self.device.type == "cuda" else 1
        few = min(most, 16)
        setting = (kind, network, count, classes)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.seconds(*setting, few, Timings())  # allocators, kernels, texts
        staged = Timings(synchronise=self.wait)
        probe = self.seconds(*setting, few, staged)
        images = max(few, min(most, int(0.7 * seconds / max(probe / few, 1e-6))))
        elapsed = probe if images == few else self.seconds(*setting, images, Timings())
        stages = grouped(staged.seconds, variants(count))
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
        share = self._operations(kind, network) * images / elapsed / self._rate()
        return {
            "images": images,
            "seconds": round(elapsed, 3),
            "whole_set_seconds": round(elapsed / images * SETS[kind][0], 1),
            "milliseconds_per_image": {k: round(1000 * v / few, 2) for k, v in stages.items()},
            "peak_gpu_bytes": peak,
            "bf16_rate_share": round(share, 3),
        }

    def _operations(self, kind: str, network: str) -> float:
        """Floating-point operations of the network on one photo with one variant."""
        backbone, (_, size, short) = self.network(network), SETS[kind]
        resized = Protocol(short_side=short).resized(*size)
        plan = windows.plan(resized, size, 224, 112, backbone.patch_size)
        tokens, width = 1 + plan.grid[0] * plan.grid[1], backbone.blocks[0].width
        return float(plan.num_windows * backbone.depth * block_operations(tokens, width))

    def _rate(self) -> float:
        if not hasattr(self, "_bf16"):
            self._bf16 = rates.rate(self.device, torch.bfloat16)
        return self._bf16

    def plain(self, seconds: float) -> dict[str, Any]:
        """Time the reference loop on a photo of VOC's size in memory: one variant in fp32."""
        backbone = load_backbone(NETWORKS["cuda"][0], seed=0, device=str(self.device))
        text = random_text(30, backbone.embed_dim).to(self.device)
        photo = torch.randn(3, 336, 448, device=self.device)
        classes = torch.arange(30, device=self.device)
        start, images = time.perf_counter(), 0
        while images == 0 or time.perf_counter() - start < seconds / 2:
            logits = reference.slide(backbone.model, photo, (375, 500), text, "csa")
            reference.decide(logits, classes).cpu()
            images += 1
        elapsed = time.perf_counter() - start
        return {"images": images, "milliseconds_per_image": round(1000 * elapsed / images, 2)}


def tests(device: str, seconds: float) -> dict[str, Any]:
    """Run ``pytest -m gpu``; on a CPU collect only. If the time is up, count what has passed."""
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "tests/test_gpu.py"]
    if device == "cpu":
        command.append("--collect-only")
    root = Path(__file__).parents[1]
    limit = max(seconds, TESTS_SECONDS)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=limit)
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode().splitlines()
        passed, failed = (sum(word in line for line in lines) for word in ("PASSED", "FAILED"))
        ended = f"{passed} passed and {failed} failed within {limit:.0f} s, the others did not end"
        return {"last_line": ended}
    return {"code": ran.returncode, "last_line": (ran.stdout.strip().splitlines() or [""])[-1]}


def parts(measure: Measure) -> Iterator[tuple[str, Callable[[float], dict[str, Any]]]]:
    """Yield every part by its name, the most important first. Call a part with its seconds."""
    yield "tests", lambda seconds: tests(measure.device.type, seconds)
    small, large = NETWORKS[measure.device.type]
    settings = [("voc", small, count, 20) for count in (12, 1, 48)]
    settings += [("voc", small, 12, classes) for classes in (81, 171)]
    settings += [("cityscapes", small, count, 20) for count in (1, 12)]
    settings += [(kind, large, 12, 20) for kind in SETS]
    for number, setting in enumerate(settings):
        kind, network, count, classes = setting
        name = f"{kind}, {network}, {count} variants, {classes} classes"
        yield name, partial(measure.evaluation, *setting)
        if number == 0:
            yield "plain loop, one variant", measure.plain


def page(figures: dict[str, Any]) -> str:
    """The text of performance-gpu.md."""
    lines = [
        "# On a GPU",
        "",
        f"Made by `python -m benchmarks.gpu` on {figures['device']}, torch {figures['torch']}, in "
        f"at most {figures['minutes']:g} minutes; host {figures['machine']['cpu']}, load average "
        f"before {figures['machine']['load_before']}.",
        "",
    ]
    if figures["device"] == "cpu":
        lines += ["No GPU was at hand: these figures show that every part of the script ends.", ""]
    lines += [
        "| part | photos | s | s, whole set | share of the bf16 rate | peak GB | ms a photo |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in figures["parts"].items():
        stages = part.get("milliseconds_per_image", "")
        if isinstance(stages, dict):
            stages = ", ".join(f"{stage} {value}" for stage, value in stages.items())
        peak = part.get("peak_gpu_bytes")
        cells = [
            name,
            part.get("images", ""),
            part.get("seconds", ""),
            part.get("whole_set_seconds", ""),
            part.get("bf16_rate_share", ""),
            "" if peak is None else f"{peak / 1e9:.1f}",
            stages or part.get("last_line", "") or part.get("error", ""),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    goal = f"Goal on one H200: 12 variants on 1,449 photos of VOC's size below {GOAL_SECONDS:g} s."
    lines += ["", goal, ""]
    kernels = Path(__file__).parents[1] / "docs" / "kernels.json"
    if kernels.is_file():
        lines += [
            "## Kernels, copies and waits of a batch of 16 photos",
            "",
            "Counted without a GPU (`python -m benchmarks.kernels`), ViT-B/16 in bf16, with one "
            "variant and with twelve. Before, every photo of a variant was read out, fetched and "
            "counted by itself; what the network and the uploads took then was not counted.",
            "",
            "| | names | kernels, one variant | twelve | a further variant | copies, twelve | "
            "waits, twelve |",
            "|---|---|---|---|---|---|---|",
        ]
        for number, per_photo in BEFORE.items():
            lines.append(f"| before | {number} | | | {16 * per_photo} | | {16 * 12} |")
        for names, row in json.loads(kernels.read_text(encoding="utf-8")).items():
            one, many = row["one"], row["twelve"]
            cells = ["now", names, one["kernels"], many["kernels"], row["kernels_per_variant"]]
            cells += [many["transfers"], many["waits"]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the figures")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is at hand; --device cpu shows that every part of the script ends")
    end = time.monotonic() + 60 * arguments.minutes
    figures = {
        **report.machine(),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "minutes": arguments.minutes,
        "parts": {},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        waiting = list(parts(Measure(arguments.device, Path(folder))))
        for number, (name, measure) in enumerate(waiting):
            remaining = end - time.monotonic()
            if remaining <= 0:
                figures["parts"][name] = {"error": "no time was left"}
            else:
                try:
                    figures["parts"][name] = measure(remaining / (len(waiting) - number))
                except Exception as error:  # the other parts are worth having
                    line = (str(error).splitlines() or [""])[0]
                    figures["parts"][name] = {"error": f"{type(error).__name__}: {line}"}
            print(name, figures["parts"][name], flush=True)
            text = json.dumps(figures, indent=1) + "\n"
            (arguments.out / "gpu.json").write_text(text, encoding="utf-8")
            (arguments.out / "performance-gpu.md").write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
