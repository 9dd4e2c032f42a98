"""VOC at full size on a GPU: 1,449 photos of 336 x 448 in 6 windows, B/16 in bf16, 12 variants.

    python -m benchmarks.gpu [--images 1449] [--out docs]

The evaluator itself runs, from JPEG files to confusion counts, on noise photos and a network of
random weights: time does not depend on either. Seconds per stage are those of a second pass over
some images with a synchronisation around every stage; the goal is for the first pass, which has
none. Without a GPU it runs on the CPU, for a look at the script with few images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.tasks import VARIANTS, load_variants
from sclip_lab.core.timings import Timings
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.protocol import Protocol

GOAL_SECONDS = 60.0
SIZE = (336, 448)
CLASSES = 20


def write_photos(folder: Path, images: int) -> None:
    """JPEG photos of smoothed noise and masks of stripes, a few of each under many names."""
    rng = np.random.default_rng(0)
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    photos, masks = [], []
    for _ in range(8):
        coarse = rng.integers(0, 256, (21, 28, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        mask = np.repeat(rng.integers(0, CLASSES, (1, SIZE[1])), SIZE[0], axis=0).astype(np.uint8)
        photos.append(cv2.imencode(".jpg", photo)[1].tobytes())
        masks.append(cv2.imencode(".png", mask)[1].tobytes())
    for i in range(images):
        (folder / "images" / f"{i:05}.jpg").write_bytes(photos[i % 8])
        (folder / "masks" / f"{i:05}.png").write_bytes(masks[i % 8])


def grouped(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by stage, those of all rewritten blocks together."""
    total: dict[str, float] = {}
    for stage, value in seconds.items():
        name = "last blocks" if stage in VARIANTS else stage
        total[name] = total.get(name, 0.0) + value
    return total


def measure(images: int, batch_images: int | None = None) -> dict[str, Any]:
    """Wall-clock seconds of the whole evaluation, and milliseconds per image and stage."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone("ViT-B-16-quickgelu", seed=0, precision="bf16", device=device)
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photos(folder, images)
        dataset = Folder(
            "noise", folder, "images", "masks", "sclip_voc20", ".jpg", ".png", ignore_index=255
        )
        few = Folder(
            "few", folder, "images", "masks", "sclip_voc20", ".jpg", ".png", limit=min(images, 64)
        )
        protocol = Protocol(templates=("{}",))  # the text tower is not what is measured

        def seconds(data: Folder, store: str, timings: Timings) -> float:
            specs = [Spec(v, backbone, protocol, data) for v in load_variants(VARIANTS)]
            synchronise()
            start = time.perf_counter()
            evaluate(
                specs,
                folder / store,
                batch_images=batch_images,
                progress=False,
                timings=timings,
            )
            synchronise()
            return time.perf_counter() - start

        seconds(few, "warm", Timings())  # allocators and kernels
        timings = Timings(synchronise=synchronise)
        seconds(few, "staged", timings)
        total = seconds(dataset, "all", Timings())
    stages = {k: round(1000 * v / timings.images, 3) for k, v in grouped(timings.seconds).items()}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "images": images,
        "variants": len(VARIANTS),
        "seconds": round(total, 2),
        "goal_seconds": GOAL_SECONDS * images / 1449,
        "images_per_second": round(images / total, 2),
        "milliseconds_per_image": stages,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1449)
    parser.add_argument("--batch-images", type=int, help="photos per batch")
    parser.add_argument("--out", type=Path, help="folder in which gpu.json is written")
    arguments = parser.parse_args()
    figures = measure(arguments.images, arguments.batch_images)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.out:
        (arguments.out / "gpu.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
