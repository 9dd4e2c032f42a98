"""The one loop: specs in, confusion counts out, one pass for all that share their windows.

It knows no variant, data set or measure by name.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sclip_lab import fingerprint, results
from sclip_lab.call import target_modules
from sclip_lab.canonical import digest
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.errors import LabError
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.network.backbone import Backbone
from sclip_lab.results import metrics
from sclip_lab.results.store import Store
from sclip_lab.segmentation import photos, tree, views, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode, first_rewritten
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.timings import Timings

log = logging.getLogger(__name__)
FLUSH_SECONDS = 10.0
FLUSH_IMAGES = 64
# A batch on a GPU unless a user says how many images: so many, or fewer with so many windows.
GPU_IMAGES = 16
GPU_WINDOWS = 96
# Photos that wait for others of their size, in batches.
BATCHES_WAITING = 4


@dataclass(frozen=True)
class Photo:
    """One sample, ready for the network."""

    sample: Sample
    plan: windows.Plan
    input: Tensor  # (3, *plan.resized) float32, normalised, on the CPU


@dataclass(frozen=True)
class View:
    """What an observer sees of one spec on one photo.

    Attributes:
        spec, photo: which.
        prediction: (height, width) class ids.
        encoded: the photo's windows behind the network, unchanged where the protocol has views.
    """

    spec: Spec
    photo: Photo
    prediction: Tensor
    encoded: Encoded

    @cached_property
    def patch_labels(self) -> Tensor:
        """(windows, grid_h, grid_w) int64: majority class of each patch, -1 where it is void."""
        return windows.patch_labels(
            self.photo.plan, self.photo.sample.mask, self.spec.dataset.ignore_index
        )


class Observer(Protocol):
    """Something that is kept beside the counts, for some images."""

    def pending(self, store: Store, spec: Spec) -> set[str]:
        """Names of the images whose observation is not in the store yet."""

    def observe(self, store: Store, view: View) -> None:
        """Take what is wanted from one spec on one image."""

    def flush(self, store: Store) -> None:
        """Write what was taken."""


def evaluate(
    specs: Iterable[Spec],
    store: Store | str | Path = "results/store",
    *,
    observers: Sequence[Observer] = (),
    shard: tuple[int, int] = (0, 1),
    batch_images: int | None = None,
    trunk_cache_gb: float = 0.0,
    progress: bool = True,
    timings: Timings | None = None,
) -> pd.DataFrame:
    """Compute what is not in the store yet, and return all of it.

    Specs that share backbone, data set and window geometry are computed in one pass over the
    images. Each image is a batch of its own on a CPU, so that its numbers depend on nothing but
    itself. With larger batches matrix products may be blocked otherwise: differences stay at
    rounding (1e-6 of a unit feature in fp32), and only labels of near-ties can change.

    Args:
        specs: cells; equal ones are computed once.
        store: or its root folder.
        observers: see `sclip_lab.evaluation.observers`.
        shard: (index, count): only every ``count``-th image from ``index`` on. All shards write
            to the same store, and counts add exactly.
        batch_images: images per batch; None: 1 on a CPU, 16 on a GPU, fewer of many windows.
        trunk_cache_gb: size of a cache of tokens in front of the first rewritten block, in the
            store's folder, for repeated sweeps; 0 for none. The numbers are the same bits.
        progress: show a bar.
        timings: filled with seconds per stage.

    Returns:
        the DataFrame of `sclip_lab.results.loading.load` for these specs, unfinished ones included.

    Raises:
        LabError: bad input. Images finished before it stay in the store.
    """
    store = store if isinstance(store, Store) else Store(store)
    unique = list({spec.key: spec for spec in specs}.values())
    if not unique:
        raise LabError("no specs to evaluate")
    index, count = shard
    if not 0 <= index < count:
        raise LabError(f"shard {index} of {count}: the index lies in 0 .. {count - 1}")
    groups: dict[tuple[Any, ...], list[Spec]] = {}
    for spec in unique:
        if index >= len(spec.dataset):
            raise LabError(
                f"shard {index} of {count}: data set '{spec.dataset.name}' has "
                f"{len(spec.dataset)} images, use at most that many shards"
            )
        store.open(spec)
        key = (spec.backbone.digest, spec.dataset.digest(), *spec.protocol.geometry)
        groups.setdefault(key, []).append(spec)
    cache = TrunkCache(store.root / "trunk", trunk_cache_gb) if trunk_cache_gb else None
    for group in groups.values():
        one = _Pass(group, store, observers, shard, batch_images, cache, timings or Timings())
        one.run(progress)
    return results.load(store.root, [spec.key for spec in unique], partial=True)


class _Pass:
    """One pass over a data set for specs that see the same windows."""

    def __init__(
        self,
        specs: Sequence[Spec],
        store: Store,
        observers: Sequence[Observer],
        shard: tuple[int, int],
        batch_images: int | None,
        trunk_cache: TrunkCache | None,
        timings: Timings,
    ) -> None:
        self.specs = specs
        self.store = store
        self.observers = observers
        self.trunk_cache = trunk_cache
        self.timings = timings
        self.backbone: Backbone = specs[0].backbone
        self.dataset: Dataset = specs[0].dataset
        on_gpu = self.backbone.device.type == "cuda"
        self.batch_images = batch_images or (GPU_IMAGES if on_gpu else 1)
        self.batch_windows = math.inf if batch_images else GPU_WINDOWS
        mine = list(self.dataset.names)[shard[0] :: shard[1]]
        self.whole = shard == (0, 1)
        self.uncounted = {s.key: set(mine) - store.done(s) for s in specs}
        self.unobserved = [
            {s.key: o.pending(store, s) & set(mine) for s in specs} for o in observers
        ]
        self.buffer: dict[str, list[Mapping[str, Any]]] = {s.key: [] for s in specs}

    def run(self, progress: bool) -> None:
        indices = [i for i, name in enumerate(self.dataset.names) if self._specs_for(name)]
        if indices:
            self._evaluate(indices, progress)
        for spec in self.specs:
            if self.whole:
                self.store.compact(spec)

    def _evaluate(self, indices: Sequence[int], progress: bool) -> None:
        self.readouts = self._make_readouts(progress)
        last_flush, waiting = time.monotonic(), 0
        variants = list({s.attention.key: s.attention for s in self.specs}.values())
        blocks, apart = tree.cost(self.backbone.depth, variants)
        log.info("%d variants run %d blocks per photo, apart %d", len(variants), blocks, apart)
        title = f"{len(self.specs)} x {self.dataset.name}"
        bar = tqdm(total=len(indices), desc=title, unit="img", disable=not progress)
        try:
            for batch in self._batches(indices):
                self._run_batch(batch)
                self.timings.images += len(batch)
                bar.update(len(batch))
                waiting += len(batch)
                if waiting >= FLUSH_IMAGES or time.monotonic() - last_flush > FLUSH_SECONDS:
                    self._flush()
                    last_flush, waiting = time.monotonic(), 0
        finally:
            bar.close()
            self._flush()

    def _specs_for(self, name: str) -> list[Spec]:
        return [
            spec
            for spec in self.specs
            if name in self.uncounted[spec.key]
            or any(name in pending[spec.key] for pending in self.unobserved)
        ]

    def _make_readouts(self, progress: bool) -> dict[str, Readout]:
        texts: dict[Any, Tensor] = {}
        readouts = {}
        with self.timings.measure("text"):
            for spec in self.specs:
                key = (spec.vocabulary.digest(), spec.protocol.templates)
                if key not in texts:
                    text = embed_vocabulary(
                        self.backbone,
                        spec.vocabulary,
                        spec.protocol.templates,
                        self.store.text_cache,
                        progress,
                    )
                    texts[key] = text.to(self.backbone.device)
                classes = torch.tensor(spec.vocabulary.query_classes)
                readouts[spec.key] = Readout(spec.protocol, texts[key], classes)
        return readouts

    def _load(self, index: int) -> Photo:
        sample = self.dataset[index]
        protocol = self.specs[0].protocol
        return Photo(sample, *photos.prepare(sample.image, protocol, self.backbone))

    def _photos(self, indices: Sequence[int]) -> Iterator[Photo]:
        """In order, decoded ahead of their use."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            ahead: deque[Future[Photo]] = deque()
            remaining = iter(indices)
            try:
                while True:
                    for following in islice(remaining, 2 * self.batch_images - len(ahead)):
                        ahead.append(pool.submit(self._load, following))
                    if not ahead:
                        return
                    with self.timings.measure("waiting for photos"):
                        photo = ahead.popleft().result()
                    yield photo
            finally:
                for future in ahead:
                    future.cancel()

    def _batches(self, indices: Sequence[int]) -> Iterator[list[Photo]]:
        """Photos whose windows have one size; of many sizes, few photos wait for their like."""
        views_each = max(1, len(self.specs[0].protocol.views or ()))
        buckets: dict[tuple[int, int], list[Photo]] = {}
        for photo in self._photos(indices):
            size = photo.plan.rows.crop, photo.plan.columns.crop
            bucket = buckets.setdefault(size, [])
            bucket.append(photo)
            cut = views_each * sum(other.plan.num_windows for other in bucket)
            if len(bucket) == self.batch_images or cut >= self.batch_windows:
                yield buckets.pop(size)
            elif sum(map(len, buckets.values())) >= BATCHES_WAITING * self.batch_images:
                yield buckets.pop(max(buckets, key=lambda size: len(buckets[size])))
        yield from buckets.values()

    @torch.inference_mode()
    def _run_batch(self, batch: Sequence[Photo]) -> None:
        wanted = {p.sample.name: {s.key for s in self._specs_for(p.sample.name)} for p in batch}
        keys = set().union(*wanted.values())
        by_variant: dict[str, list[Spec]] = {}
        for spec in self.specs:
            if spec.key in keys:
                by_variant.setdefault(spec.attention.key, []).append(spec)
        variants = [specs[0].attention for specs in by_variant.values()]
        seen = self.specs[0].protocol.views  # the same of all specs, but for weights
        cuts = [views.see(photo.plan.cut(photo.input), seen) for photo in batch]
        slices, start = [], 0
        for windows_of_one in cuts:
            slices.append(slice(start, start + len(windows_of_one)))
            start += len(windows_of_one)
        cut = torch.cat(cuts)
        rule = self.specs[0].protocol.position_embedding
        level = first_rewritten(self.backbone, variants)
        trunk = self._cached_trunk(batch, level)
        keep = self.trunk_cache is not None and trunk is None
        for index, encoded in encode(self.backbone, cut, variants, rule, self.timings, trunk):
            if keep:
                self._keep_trunk(batch, slices, level, encoded)
                keep = False
            specs = by_variant[variants[index].key]
            with self.timings.measure("readout"):
                distinct = {self.readouts[s.key].logits_key: self.readouts[s.key] for s in specs}
                logits = {k: r.patch_logits(encoded) for k, r in distinct.items()}
            for spec in specs:
                readout = self.readouts[spec.key]
                for photo, part in zip(batch, slices, strict=True):
                    if spec.key not in wanted[photo.sample.name]:
                        continue
                    own = slice(part.start, part.start + photo.plan.num_windows)
                    mine = encoded.part(own)
                    with self.timings.measure("readout"):
                        mixed = logits[readout.logits_key][part]
                        laid_out = photo.plan.lay_out(views.average(mixed, spec.protocol.views))
                        try:
                            prediction = readout.predict(photo.plan, laid_out, photo.input, mine)
                        except LabError as error:
                            where = f"{spec.label} on image {photo.sample.name}"
                            raise LabError(f"{where}: {error}") from error
                    self._count(spec, photo, prediction)
                    self._observe(View(spec, photo, prediction, mine))

    @cached_property
    def _trunk_identity(self) -> dict[str, Any]:
        """What the trunk's tokens of all photos have in common."""
        protocol = self.specs[0].protocol
        return {
            "backbone": self.backbone.digest,
            "device": self.backbone.device.type,
            "dataset": self.dataset.digest(),
            "geometry": protocol.geometry,
            "code": fingerprint.digest(target_modules(protocol.views)),
        }

    def _trunk_key(self, photo: Photo, level: int) -> str:
        return digest({**self._trunk_identity, "image": photo.sample.name, "level": level})

    def _cached_trunk(self, batch: Sequence[Photo], level: int) -> Tensor | None:
        """What enters block ``level``, if the cache has it of every photo."""
        if self.trunk_cache is None:
            return None
        with self.timings.measure("trunk cache"):
            found = [self.trunk_cache.load(self._trunk_key(photo, level)) for photo in batch]
        present = [tokens for tokens in found if tokens is not None]
        return torch.cat(present) if len(present) == len(batch) else None

    def _keep_trunk(
        self, batch: Sequence[Photo], slices: Sequence[slice], level: int, encoded: Encoded
    ) -> None:
        assert self.trunk_cache is not None
        tokens = encoded.history[level].tokens
        with self.timings.measure("trunk cache"):
            for photo, part in zip(batch, slices, strict=True):
                self.trunk_cache.save(self._trunk_key(photo, level), tokens[part])

    def _count(self, spec: Spec, photo: Photo, prediction: Tensor) -> None:
        name = photo.sample.name
        if name not in self.uncounted[spec.key]:
            return
        with self.timings.measure("count"):
            try:
                rows = metrics.count(
                    prediction,
                    photo.sample.mask,
                    spec.vocabulary.num_classes,
                    spec.dataset.ignore_index,
                )
            except LabError as error:
                raise LabError(f"data set {spec.dataset.name}, image {name}: {error}") from None
        true, predicted, pixels = rows.true, rows.predicted, rows.pixels
        if not len(pixels):
            # An image of void alone is finished too: one row that counts nothing says so.
            true, predicted, pixels = (np.zeros(1, dtype=a.dtype) for a in rows)
        frame = {"image": name, "true": true, "predicted": predicted, "pixels": pixels}
        self.buffer[spec.key].append(frame)

    def _observe(self, view: View) -> None:
        for observer, pending in zip(self.observers, self.unobserved, strict=True):
            if view.photo.sample.name in pending[view.spec.key]:
                with self.timings.measure("observers"):
                    observer.observe(self.store, view)

    def _flush(self) -> None:
        with self.timings.measure("store"):
            for spec in self.specs:
                self.store.append(spec, self.buffer[spec.key])
                self.buffer[spec.key] = []
            for observer in self.observers:
                observer.flush(self.store)
