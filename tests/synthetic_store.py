"""A small store written by hand, in the layout the evaluator writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.results.store import picture_files, spec_files

CLASSES = ["background", "cat", "dog", "tree", "sky"]
SKILL = {"vanilla": 0.35, "csa": 0.75, "csa(temperature=2.0)": 0.7, "identity": 0.6}


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def labels(
    seed: int, skill: float, shape: tuple[int, int], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """A mask of blocks and a prediction that is right on about ``skill`` of them."""
    truth = np.random.default_rng(seed)
    rows, columns = -(-shape[0] // 8), -(-shape[1] // 8)
    blocks = truth.integers(classes, size=(rows // 2 + 1, columns // 2 + 1))
    blocks = np.kron(blocks, np.ones((2, 2), int))[:rows, :columns]
    noise = np.random.default_rng([seed, int(skill * 1000)])
    guess = np.where(
        noise.random(blocks.shape) < skill, blocks, noise.integers(classes, size=blocks.shape)
    )
    grow = np.ones((8, 8), int)
    mask, prediction = (np.kron(b, grow)[: shape[0], : shape[1]] for b in (blocks, guess))
    mask = mask.astype(np.uint8)
    mask[:3] = 255
    return prediction.astype(np.uint8), mask


def confusion_rows(image: str, prediction: np.ndarray, mask: np.ndarray) -> pd.DataFrame:
    """One image's rows, counted by pandas."""
    pixels = pd.DataFrame({"true": mask.ravel(), "predicted": prediction.ravel()})
    pixels = pixels[pixels["true"] != 255]
    rows = pixels.groupby(["true", "predicted"]).size().rename("pixels").reset_index()
    rows.insert(0, "image", image)
    return rows.astype({"true": np.int16, "predicted": np.int16, "pixels": np.int64})


def write_spec(
    root: Path,
    label: str,
    rows: Sequence[pd.DataFrame],
    images: Sequence[str],
    *,
    dataset: str = "shapes",
    created: str = "2026-01-01T00:00:00",
    config: dict[str, Any] | None = None,
    names: dict[str, str] | None = None,
    class_names: Sequence[str] = CLASSES,
    chunk: int = 2,
    seed: int = 0,
    provenance: dict[str, str] | None = None,
) -> str:
    """Write one spec with its rows in chunks of a few images; returns its key."""
    key = key_of(label, dataset, seed)
    record = {
        "key": key,
        "names": {"attention": label.split("(")[0], "backbone": "tiny"}
        | {"dataset": dataset, "protocol": "sclip"}
        | (names or {}),
        "label": label,
        "config": {
            "attention": {"layers": [-1], "residual": True},
            "backbone": {"name": "tiny"},
            "protocol": {"logit_scale": 40.0},
            "dataset": {"digest": key_of(dataset), "ignore_index": 255},
        },
        "class_names": list(class_names),
        "provenance": provenance or {},
        "images": list(images),
        "created": created,
    }
    for group, values in (config or {}).items():
        record["config"][group] |= values
    folder = root / "specs" / key
    (folder / "spec.json").unlink(missing_ok=True)
    spec_files.write_record(folder / "spec.json", record)
    for start in range(0, len(rows), chunk):
        part = pd.concat(rows[start : start + chunk], ignore_index=True)
        spec_files.write(folder, spec_files.COUNTS, part)
    return key


def write_cell(
    root: Path,
    label: str,
    skill: float,
    images: Sequence[str],
    *,
    photos: int | None = None,
    shape: tuple[int, int] = (24, 32),
    first: int = 0,
    **more: Any,
) -> str:
    """`write_spec` with rows of `labels` for the first ``photos`` images, seeds from ``first``."""
    rows = [
        confusion_rows(image, *labels(seed, skill, shape, len(CLASSES)))
        for seed, image in enumerate(images[:photos], start=first)
    ]
    return write_spec(root, label, rows, images, **more)


def write_store(root: Path, num_images: int = 6, shape: tuple[int, int] = (48, 64)) -> list[str]:
    """Vanilla, CSA at two temperatures and identity on one data set; returns their keys."""
    images = [f"photo_{index}" for index in range(num_images)]
    keys = []
    for order, (label, skill) in enumerate(SKILL.items()):
        config = {}
        if label.startswith("csa"):
            config = {"attention": {"temperature": 2.0 if "2.0" in label else 1.0}}
        created = f"2026-01-01T00:00:0{order}"
        keys.append(
            write_cell(root, label, skill, images, shape=shape, created=created, config=config)
        )
    return keys


def write_pictures(root: Path, keys: Sequence[str], num_images: int = 2) -> None:
    """Pictures for specs of `write_store`; the last of them has no attention map."""
    shape = (48, 64)
    points = np.array([[10, 12], [30, 40]], np.int32)
    boxes = np.array([[0, 0, 48, 48], [0, 16, 48, 48]], np.int32)
    for index in range(num_images):
        name = f"photo_{index}"
        mask = labels(index, 1.0, shape, len(CLASSES))[1]
        shades = np.linspace(40, 220, len(CLASSES)).astype(np.uint8)
        photo = np.repeat(shades[mask % len(CLASSES)][..., None], 3, axis=2)
        picture_files.save(root, "photo", key_of("shapes"), name, image=photo, mask=mask)
        for key, skill in zip(keys, SKILL.values(), strict=True):
            prediction = labels(index, skill, shape, len(CLASSES))[0]
            maps = np.random.default_rng(index).dirichlet(np.ones(36), 2)
            attention = maps.reshape(2, 6, 6).astype(np.float32)
            arrays = {"prediction": prediction, "points": points}
            arrays |= {} if key == keys[-1] else {"attention": attention, "attention_box": boxes}
            picture_files.save(root, "prediction", key, name, **arrays)
