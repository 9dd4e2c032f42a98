"""What a batch asks of a GPU: kernels, copies and waits, counted without one.

    python -m benchmarks.kernels [--names 20 81 171] [--images 16]

Torch's fake tensors take ``cuda`` as a device on a machine that has none: they have shapes and no
values. The evaluator's own pass over a batch runs on them, and a dispatch mode counts what would be
started: every operation that writes memory of its own is a kernel, a copy from the host a transfer,
and whatever the host must wait for is a wait. So an operation that starts several kernels counts as
one; counts are a lower bound that moves with what is changed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.tasks import VARIANTS
from sclip_lab.config.registry import load_attention, load_backbone
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import Sample
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation import loop
from sclip_lab.evaluation.audit import Audit
from sclip_lab.evaluation.loader import Photo
from sclip_lab.evaluation.recorder import Recorder
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import decoder, pipeline, windows
from sclip_lab.segmentation.protocol import Protocol

SIZE, TARGET = (336, 448), (375, 500)


WAITING = ("_local_scalar_dense", "nonzero", "bincount")


class Noise:
    """Data set of noise photos; only names and a vocabulary are looked at."""

    name, ignore_index = "noise", 255

    def __init__(self, images: int, classes: int) -> None:
        self.names = [f"{i:03}" for i in range(images)]
        self.vocabulary = Vocabulary("noise", tuple((f"name {i}",) for i in range(classes)))
        self.key = f"noise {images} {classes}"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError


class Count(TorchDispatchMode):
    """Counts what the operations on a device would ask of it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = [a for a in _flat((args, kwargs or {})) if isinstance(a, torch.Tensor)]
        outputs = [a for a in _flat(result) if isinstance(a, torch.Tensor)]
        name = function.__name__
        on_device = any(a.device.type == "cuda" for a in (*inputs, *outputs))
        if not on_device:
            return result
        if any(word in name for word in WAITING) or any(a.device.type == "cpu" for a in outputs):
            self.counts["waits"] += 1
        elif any(a.device.type == "cpu" and a.ndim for a in inputs):
            self.counts["transfers"] += 1
        elif not _is_view(function, inputs, outputs):
            self.counts["kernels"] += 1
            self.names[name] += 1
        return result


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [one for part in value.values() for one in _flat(part)]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return [value]


def _is_view(
    function: Any, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> bool:
    """Whether an operation only views memory differently, reserves it, or returns no tensor."""
    if function._schema.is_mutable:
        return False
    if not outputs or function.__name__.startswith("empty"):
        return True
    storages = {a.untyped_storage()._cdata for a in inputs}
    return all(a.untyped_storage()._cdata in storages for a in outputs)


def count(images: int, classes: int, variants: int, names: bool = False) -> dict[str, int]:
    """Count the kernels, transfers and waits of a batch, for ``variants`` variants of ViT-B/16."""
    backbone = load_backbone("ViT-B-16-quickgelu", seed=0, precision="bf16", device="cpu")
    # These keys digest values, which fake tensors do not have.
    backbone.text_key  # noqa: B018
    backbone.key  # noqa: B018
    data = Noise(images, classes)
    protocol = Protocol(templates=("{}",))
    chosen = [load_attention("csa", temperature=1 + i / 64) for i in range(variants)]
    specs = [Spec(variant, backbone, protocol, data) for variant in chosen]  # type: ignore[arg-type]
    plan = windows.plan(SIZE, TARGET, 224, 112, 16)
    sample = np.zeros((*TARGET, 3), np.uint8), np.zeros(TARGET, np.uint8)
    pixels = torch.zeros(3, *SIZE, dtype=torch.uint8)
    counter = Count()
    waits: list[int] = []

    def fetched(values: torch.Tensor) -> np.ndarray:
        waits.append(1)
        return np.ones(values.shape, np.int32)

    def embedded(*_: Any) -> torch.Tensor:
        return torch.zeros(classes, backbone.embed_dim)

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(specs, Store(folder), (), data.names, Timings())
        with (
            FakeTensorMode(allow_non_fake_inputs=True) as fake,
            torch.inference_mode(),
            patch.object(loop, "to_host", fetched),
            patch.object(pipeline, "memory", lambda device: 1e12),
            patch.object(pipeline, "embed_vocabulary", embedded),
            # This check looks at values when a readout is made, once a pass.
            patch.object(decoder, "_require_finite", lambda *_: None),
            patch.object(decoder.Readout, "num_classes", classes),
        ):
            _move(backbone.model, fake)
            one_pass = loop._Pass(specs, recorder, None, None, False, Audit(specs))
            photos = [
                Photo(Sample(name, *sample), plan, fake.from_tensor(pixels)) for name in data.names
            ]
            one_pass._record(photos)  # uncounted: makes masks, statistics and layouts, once
            recorder.uncounted = {spec.key: set(data.names) for spec in specs}
            waits.clear()
            with counter:
                one_pass._record(photos)
    counts = dict(counter.counts)
    if names:
        print(counter.names)
    return {
        "kernels": counts.get("kernels", 0),
        "transfers": counts.get("transfers", 0),
        "waits": counts.get("waits", 0) + len(waits),
    }


def _move(model: Any, fake: FakeTensorMode) -> None:
    """Replace all weights by fake tensors on a GPU."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake.from_tensor(tensor.detach()).to("cuda")


def table(images: int, names: Sequence[int]) -> dict[str, Any]:
    """Counts of one variant and of twelve, and what each further variant adds to a batch."""
    rows: dict[str, Any] = {}
    for classes in names:
        one, many = count(images, classes, 1), count(images, classes, len(VARIANTS))
        further = (many["kernels"] - one["kernels"]) / (len(VARIANTS) - 1)
        rows[str(classes)] = {
            "one": one,
            "twelve": many,
            "kernels_per_variant": round(further, 1),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--names", type=int, nargs="+", default=[20, 81, 171])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--out", type=Path, help="folder in which kernels.json is written")
    arguments = parser.parse_args()
    counts = table(arguments.images, arguments.names)
    print(json.dumps(counts, indent=1))
    if arguments.out:
        text = json.dumps(counts, indent=1) + "\n"
        (arguments.out / "kernels.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
