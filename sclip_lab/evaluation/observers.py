"""Observers of a few images: pictures for figures, and diagnostics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sclip_lab import diagnostics
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics import retrieval
from sclip_lab.evaluation.recorder import View
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.windows import Plan


@dataclass
class Pictures:
    """Saves predictions and attention maps of the first images of a data set.

    Each of the mask's largest classes gives a point, far from the border of its regions. The map
    of a point is that of the window whose middle is nearest, so that most of its surroundings show.

    Attributes:
        images: how many.
        points: per image.
        names: of the images, instead of the first ones.
        keys: of the cells; None: all.
    """

    images: int = 3
    points: int = 2
    names: Collection[str] | None = None
    keys: Collection[str] | None = None

    def __post_init__(self) -> None:
        counts = f"images {self.images} and points {self.points}"
        if min(self.images, self.points) < 0:
            raise LabError(f"pictures: {counts} must be 0 or more")

    def pending(self, store: Store, spec: Spec) -> set[str]:
        if self.keys is not None and spec.key not in self.keys:
            return set()
        if spec.protocol.centre_crop is not None:
            return set()  # pictures of all protocols share the whole photo
        names = spec.dataset.names[: self.images] if self.names is None else self.names
        has = partial(picture_files.has, store.root, picture_files.PREDICTION, spec.key)
        return {name for name in names if not has(name)}

    def observe(self, store: Store, view: View) -> None:
        sample = view.photo.sample
        place = store.root, picture_files.PHOTO, view.spec.dataset.key, sample.name
        if not picture_files.has(*place):
            picture_files.save(*place, image=sample.image, mask=sample.mask)
        points = region_points(sample.mask, view.spec.dataset.ignore_index, self.points)
        assert view.encoded is not None
        weights, plan = view.encoded.state.attention, view.photo.plan
        maps = None if weights is None else [attention_at(weights, plan, *p) for p in points]
        picture_files.save(
            store.root,
            picture_files.PREDICTION,
            view.spec.key,
            sample.name,
            prediction=view.prediction.cpu().numpy(),
            points=points,
            attention=None if not maps else np.stack([m for m, _ in maps]),
            attention_box=None if not maps else np.stack([box for _, box in maps]),
        )

    def flush(self, store: Store) -> None:
        """Do nothing, for `observe` has written every picture."""


class Diagnostics:
    """Takes measures of `sclip_lab.diagnostics` on the first images of a data set.

    Pooled measures (`Measure.pool`) need all of these images in one pass. A shard that sees only
    some of them leaves pooled measures to a later run.

    Args:
        measures: their names.
        images: on how many images; None: all.
        layers: also of every layer and head, where a measure has them.
        keys: of the cells; None: all.
    """

    def __init__(
        self,
        measures: Sequence[str],
        images: int | None = 8,
        layers: bool = False,
        keys: Collection[str] | None = None,
    ) -> None:
        by_name = {name: diagnostics.find(name) for name in measures}
        self.measures = [name for name in measures if by_name[name].pool is None]
        self.pooled = [name for name in measures if by_name[name].pool is not None]
        self.images = images
        self.layers = layers
        self.keys = keys
        self._buffer: list[tuple[Spec, Mapping[str, Any]]] = []
        self._pools: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}

    def pending(self, store: Store, spec: Spec) -> set[str]:
        if self.keys is not None and spec.key not in self.keys:
            return set()
        names = set(spec.dataset.names[: self.images])
        frame = store.diagnostics(spec)
        whole, single = frame[frame["layer"] < 0], frame[frame["layer"] >= 0]
        missing = set()
        for name in self.measures:
            missing |= names - set(whole.loc[whole["measure"] == name, "image"])
            if self.layers and diagnostics.find(name).of_layer:
                missing |= names - set(single.loc[single["measure"] == name, "image"])
        for name in self.pooled:
            if names - set(whole.loc[whole["measure"] == name, "image"]):
                self._pools[spec.key] = {}
                return names
        return missing

    def observe(self, store: Store, view: View) -> None:
        name, observed = view.photo.sample.name, observation(view)
        by_name = {measure: diagnostics.find(measure) for measure in self.measures}
        if view.spec.key in self._pools:
            sampled = retrieval.some(observed.labels.numel())
            features = observed.features.flatten(0, 1)[sampled].half().cpu()
            self._pools[view.spec.key][name] = (
                features,
                observed.flat_labels.flatten()[sampled].cpu(),
            )
        try:
            rows = list(diagnostics.values(by_name, self.measures, observed, self.layers))
        except LabError as error:
            raise LabError(f"{view.spec.label} on image {name}: {error}") from error
        if rows:
            columns = dict(zip(diagnostics.Value._fields, zip(*rows, strict=True), strict=True))
            codes = [diagnostics.code_of(measure) for measure in columns["measure"]]
            self._buffer.append((view.spec, {"image": name, "code": codes, **columns}))
        self._pool(view.spec)

    def _pool(self, spec: Spec) -> None:
        """Take the pooled measures once the last of their photos was observed."""
        photos = self._pools.get(spec.key)
        if photos is None or set(photos) != set(spec.dataset.names[: self.images]):
            return
        features, labels = zip(*photos.values(), strict=True)
        for name in self.pooled:
            pool = diagnostics.find(name).pool
            assert pool is not None
            for image, value in zip(photos, pool(features, labels), strict=True):
                row = {
                    "image": image,
                    "measure": name,
                    "value": value,
                    "code": diagnostics.code_of(name),
                }
                self._buffer.append((spec, row))
        del self._pools[spec.key]

    def flush(self, store: Store) -> None:
        for key in {spec.key for spec, _ in self._buffer}:
            entries = [(spec, frame) for spec, frame in self._buffer if spec.key == key]
            store.append(entries[0][0], [frame for _, frame in entries], "diagnostics")
        self._buffer = []


def observation(view: View) -> diagnostics.Observation:
    """What diagnostics see of one spec on one photo."""
    spec, sample, encoded = view.spec, view.photo.sample, view.encoded
    assert encoded is not None
    queries = torch.tensor(spec.vocabulary.query_classes, device=view.logits.device)
    similarity = view.logits.new_full(
        (*view.logits.shape[:-1], spec.vocabulary.num_classes), -torch.inf
    )
    similarity.scatter_reduce_(-1, queries.expand_as(view.logits), view.logits, "amax")
    return diagnostics.Observation(
        attention=encoded.state.attention,
        patches=encoded.patches,
        class_embedding=encoded.class_embedding,
        labels=view.photo.patch_labels(spec.dataset.ignore_index).to(encoded.patches.device),
        grid=view.photo.plan.grid,
        patch_size=spec.backbone.patch_size,
        similarity=similarity,
        layers=diagnostics.Layers(encoded, spec.protocol.position_embedding),
        photo=diagnostics.SegmentedPhoto(
            view.prediction.cpu().numpy(),
            sample.mask,
            view.photo.plan,
            spec.dataset.ignore_index,
        ),
    )


def region_points(mask: np.ndarray, ignore_index: int, count: int) -> np.ndarray:
    """(<= count, 2) int32 row and column: the pixel furthest from the border of each of the
    largest classes of a mask, largest class first."""
    ids, areas = np.unique(mask[mask != ignore_index], return_counts=True)
    points = []
    for class_id in ids[np.argsort(-areas, kind="stable")][:count]:
        inside = np.pad((mask == class_id).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        points.append(np.unravel_index(int(distance.argmax()), mask.shape))
    return np.array(points, dtype=np.int32).reshape(-1, 2)


def attention_at(
    attention: Tensor, plan: Plan, row: int, column: int
) -> tuple[np.ndarray, np.ndarray]:
    """Attention of the patch under one pixel of the photo, averaged over heads.

    Args:
        attention: (windows, heads, tokens or patches, same).
        plan: window geometry.
        row, column: in pixels of the photo.

    Returns:
        (grid_h, grid_w) float32 weights, and (4,) int32 top, left, height, width of the window
        in pixels of the photo.
    """
    scale = plan.target[0] / plan.resized[0], plan.target[1] / plan.resized[1]
    chosen, cells, box = [], [], []
    for axis, pixel, factor in ((plan.rows, row, scale[0]), (plan.columns, column, scale[1])):
        place = (pixel + 0.5) / factor
        distances = [abs(start + axis.crop / 2 - place) for start in axis.starts]
        window = int(np.argmin(distances))
        within = place - axis.starts[window] + axis.before
        cell = int(within * axis.cells / axis.seen)
        chosen.append(window)
        cells.append(min(max(cell, 0), axis.cells - 1))
        first = axis.starts[window] - axis.before
        box.append((round(first * factor), round(axis.seen * factor)))
    window = chosen[0] * len(plan.columns.starts) + chosen[1]
    grid_h, grid_w = plan.grid
    weights = attention[window].float().mean(dim=0)
    skip = weights.shape[-1] - grid_h * grid_w  # 1 where the class token takes part
    line = weights[skip + cells[0] * grid_w + cells[1], skip:]
    where = np.array([box[0][0], box[1][0], box[0][1], box[1][1]], dtype=np.int32)
    return line.reshape(grid_h, grid_w).cpu().numpy(), where
