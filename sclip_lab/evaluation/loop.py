"""The evaluation loop: specs in, confusion counts out. Specs that share windows share a pass.

It knows no variant, data set or measure by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sclip_lab import results
from sclip_lab.attention.variant import Variant
from sclip_lab.core import files, signals
from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.core.timings import Timings
from sclip_lab.core.values import check, check_count
from sclip_lab.evaluation.audit import Audit, nothing_left
from sclip_lab.evaluation.loader import Loader, Photo, PhotoError
from sclip_lab.evaluation.recorder import Observer, Recorder, View
from sclip_lab.evaluation.references import References
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import CachedEncoder, TrunkCache
from sclip_lab.results.store.store import Store
from sclip_lab.results.table import metrics
from sclip_lab.segmentation import batched, pipeline, tree, views
from sclip_lab.segmentation.decoder import NOT_FINITE, Readout
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.pipeline import Collected, Windows

log = logging.getLogger(__name__)
# Kinds of devices that label all photos of a batch at once; a CPU does one photo after the other.
BATCHED_ON = ("cuda",)


def evaluate(
    specs: Iterable[Spec],
    store: Store | str | Path = "results/store",
    *,
    observers: Sequence[Observer] = (),
    shard: tuple[int, int] = (0, 1),
    batch_images: int | None = None,
    batch_windows: int | None = None,
    trunk_cache_gb: float = 0.0,
    on_error: str = "stop",
    progress: bool = True,
    timings: Timings | None = None,
) -> pd.DataFrame:
    """Compute the counts that the store lacks, and return all of them.

    Specs that share backbone, data set and window geometry are computed in one pass over the
    images. Each image is a batch of its own on a CPU, so that its numbers depend on nothing but
    itself. With larger batches matrix products may add in another order: differences stay at
    rounding (1e-6 of a unit feature in fp32), and only labels of near-ties can change.

    Args:
        specs: cells; equal ones are computed once.
        store: or its root folder.
        observers: see `sclip_lab.evaluation.observers`.
        shard: (index, count): only every ``count``-th image from ``index`` on. All shards write
            to the same store, and counts add exactly.
        batch_images: images per batch; None: 1 on a CPU, 16 on a GPU, fewer of many windows.
        batch_windows: windows of a batch that go through the network at once; None: as many as
            memory has room for, see `sclip_lab.segmentation.pipeline.at_once`. On a CPU the
            numbers are the same bits.
        trunk_cache_gb: size of a cache of tokens in front of the first rewritten block, in the
            store's folder, for repeated sweeps; 0 for none. The numbers are the same bits.
        on_error: what to do when a photo cannot be used, or a spec cannot be computed on it.
            "stop": a pass stops at the photo, or goes on without the spec, and the error is raised
            when all other passes have ended. "skip": the photo is left out; the store says why,
            so does ``attrs["skipped"]`` of the result, and the next run tries it again.
        progress: show a bar.
        timings: filled with seconds per stage.

    Returns:
        the DataFrame of `sclip_lab.results.load` for these specs, unfinished ones included.

    Raises:
        LabError: bad input. Images finished before it stay in the store.
        Unfinished: (a LabError) photos or specs failed.
        Interrupted: (a KeyboardInterrupt) SIGINT, SIGTERM or SIGHUP came, if their handlers are
            the default ones. Images finished before it are in the store.
    """
    check("on_error", on_error, Literal["stop", "skip"])
    check_count("batch_images", batch_images)
    check_count("batch_windows", batch_windows)
    store = store if isinstance(store, Store) else Store(store)
    timings = timings or Timings()
    by_name = {(spec.key, *spec.shown_names.values()): spec for spec in specs}
    by_key: dict[str, Spec] = {}
    for spec in by_name.values():  # equal specs get the names of the first
        by_key.setdefault(spec.key, spec)
    unique = list(by_key.values())
    if not unique:
        raise LabError("no specs to evaluate")
    groups = passes(unique, shard)
    for spec in by_name.values():
        store.open(spec)
    cache = TrunkCache(store.root / "trunk", trunk_cache_gb) if trunk_cache_gb else None
    failed: dict[str, LabError] = {}
    audit = Audit(unique)
    audit.say_what_is_evaluated()
    with signals.raised():
        for group in groups:
            names = list(group[0].dataset.names)
            shard_names = names[shard[0] :: shard[1]]
            recorder = Recorder(group, store, observers, shard_names, timings, on_error == "skip")
            indices = [i for i, name in enumerate(names) if recorder.missing(name)]
            missing = [s for s in group if any(recorder.needs(s, names[i]) for i in indices)]
            timings.cells += len(group)
            timings.stored += len(group) - len(missing)
            if indices:
                files.probe(store.root)  # before anything is computed
                first, failed_photo = missing[0], recorder.fail_photo
                how = first.dataset, first.protocol, first.backbone, batch_images
                try:
                    with Loader(*how, timings, failed_photo) as loader:
                        loader.start(indices)  # and embed the texts meanwhile
                        one_pass = _Pass(missing, recorder, batch_windows, cache, progress, audit)
                        one_pass.run(indices, loader)
                except PhotoError as error:
                    failed |= {spec.key: error for spec in recorder.missing(error.image)}
            failed |= recorder.failures
            if shard == (0, 1):
                recorder.compact()
    if on_error == "skip":
        failed |= {key: LabError(why) for key, why in nothing_left(unique, store).items()}
    if failed:
        raise Unfinished(failed) from next(iter(failed.values()))
    shown = {spec.key: spec.shown_names for spec in unique}
    df = results.load(store.root, list(shown), partial=True, names=shown)
    audit.say_what_was_read(df)
    return df


class Unfinished(LabError):
    """Some specs could not be computed; the others are in the store.

    Attributes:
        failed: what happened to each, by its key.
    """

    def __init__(self, failed: Mapping[str, LabError]) -> None:
        self.failed = dict(failed)
        # Specs that share a pass have met the same photo.
        super().__init__("; ".join(dict.fromkeys(map(str, failed.values()))))


def passes(specs: Sequence[Spec], shard: tuple[int, int]) -> list[list[Spec]]:
    """Group specs that share photos, windows, network and second network, if they use one."""
    check("shard", shard, tuple[int, int])
    index, count = shard
    if not 0 <= index < count:
        raise LabError(f"shard {index} of {count}: the index lies in 0 .. {count - 1}")
    groups: dict[tuple[Any, ...], dict[str | None, list[Spec]]] = {}
    for spec in specs:
        if index >= len(spec.dataset):
            raise LabError(
                f"shard {index} of {count}: data set '{spec.dataset.name}' has "
                f"{len(spec.dataset)} images, use at most that many shards"
            )
        data = spec.dataset.key, spec.dataset.ignore_index
        key = (spec.backbone.key, *data, spec.protocol.geometry)
        guide = None if spec.guidance is None else spec.guidance.key
        groups.setdefault(key, {}).setdefault(guide, []).append(spec)
    result = []
    for by_guide in groups.values():
        unguided = by_guide.pop(None, [])
        first, *others = by_guide.values() or [[]]
        result += [unguided + first, *others]
    return result


class DeviceCounts:
    """Counts of a batch of photos that stay on the device until all variants have run."""

    def __init__(self, photos: Sequence[Photo], windows: Windows) -> None:
        self.photos = photos
        self.windows = windows
        self._geometries: dict[Any, batched.Geometry] = {}
        self._masks: dict[Any, Tensor] = {}
        self._taken: list[tuple[Spec, Tensor, Tensor]] = []

    def takes(self, readout: Readout, logits: Tensor) -> bool:
        """Whether a readout can be decided for all photos at once."""
        return batched.suits(readout, self._geometry(logits))

    def _geometry(self, logits: Tensor) -> batched.Geometry:
        grid = logits.shape[1], logits.shape[2]
        if grid not in self._geometries:
            plans = [plan.on_grid(grid) for plan in self.windows.plans]
            starts = [0, *accumulate(plan.num_windows for plan in plans)][:-1]
            self._geometries[grid] = batched.Geometry(plans, starts, logits.device)
        return self._geometries[grid]

    def add(self, spec: Spec, readout: Readout, logits: Tensor) -> list[Tensor]:
        """Label all photos by one spec, keep the counts, return (height, width) labels of each.

        Args:
            logits: (windows, grid_h, grid_w, queries) patch logits, of all views.

        Raises:
            PhotoError: a mask that does not fit its photo or vocabulary.
        """
        geometry, classes = self._geometry(logits), readout.num_classes
        ignored = spec.dataset.ignore_index
        key = geometry.size, classes, ignored
        if key not in self._masks:
            masks = [photo.sample.mask for photo in self.photos]
            for photo, mask in zip(self.photos, masks, strict=True):
                try:
                    metrics.check_mask(mask, classes, ignored)
                except LabError as error:
                    raise PhotoError(spec.dataset.name, photo.sample.name, error) from None
            on_host = batched.masks_of(masks, geometry.size, classes, ignored)
            self._masks[key] = on_host.to(logits.device, non_blocking=True).long()
        averaged = [
            views.average(logits[part], readout.protocol.views) for part in self.windows.parts
        ] if readout.protocol.views else [logits]  # fmt: skip
        patches = torch.cat(averaged)
        labels, counts = batched.label_and_count(readout, geometry, patches, self._masks[key])
        self._taken.append((spec, counts, patches.isfinite().all()))
        return labels

    def fetch(self) -> Iterator[tuple[Spec, np.ndarray | None]]:
        """Copy all counts from the device at once.

        Yields:
            (spec, counts): (photos, classes + 1, classes) by true and predicted class, ignored
            pixels in the last row; None instead of counts where logits are not finite.
        """
        if not self._taken:
            return
        parts = [part.flatten() for _, counts, finite in self._taken
                 for part in (counts, finite.int())]  # fmt: skip
        fetched = to_host(torch.cat(parts))
        start = 0
        for spec, counts, _ in self._taken:
            stop = start + counts.numel()
            finite, matrices = fetched[stop], fetched[start:stop].reshape(counts.shape)
            start = stop + 1
            yield spec, matrices if finite else None


def to_host(values: Tensor) -> np.ndarray:
    """Copy to the host. A batch waits for the device here and nowhere else."""
    fetched: np.ndarray = values.cpu().numpy()
    return fetched


@dataclass
class _Pass:
    """One pass over the images of one data set, for specs with the same network and windows."""

    specs: Sequence[Spec]
    recorder: Recorder
    batch_windows: int | None
    cache: TrunkCache | None
    progress: bool
    audit: Audit

    def __post_init__(self) -> None:
        specs, recorder = self.specs, self.recorder
        # All specs agree in these, except for the weights of views and what follows the network.
        self.backbone, self.protocol = specs[0].backbone, specs[0].protocol
        self.dataset = specs[0].dataset
        self.guide = next((spec.guidance for spec in specs if spec.guidance is not None), None)
        texts: dict[Any, Tensor] = {}
        with recorder.timings.measure("text"):
            cached = recorder.store.text_cache
            self.readouts = {
                spec.key: pipeline.make_readout(
                    self.backbone, spec.vocabulary, spec.protocol, cached, self.progress, texts
                )
                for spec in specs
            }
        self.encoder = CachedEncoder(
            self.backbone, self.dataset, self.protocol, self.cache, recorder.timings
        )
        self.references = References(specs, self.readouts)
        variants = [variant for variant, _ in self._by_variant(specs)]
        blocks, unshared = tree.cost(self.backbone.depth, variants)
        saved = f", {unshared} without sharing" if unshared > blocks else ""
        plural = "s" * (len(variants) > 1)
        log.info("%d variant%s to run: %d blocks per photo%s", len(variants), plural, blocks, saved)

    def run(self, indices: Sequence[int], loader: Loader) -> None:
        """Compute what is missing of some images, and record it."""
        recorder, dataset = self.recorder, self.dataset
        if self.references.specs:
            with self._bar(len(dataset), "other photos") as bar:
                for photos in loader.batches(range(len(dataset))):
                    with torch.inference_mode():
                        self._refer(photos)
                    signals.check()
                    bar.update(len(photos))
        title = f"{len(self.specs)} x {dataset.name}"
        with recorder, self._bar(len(indices), title) as bar:
            for photos in loader.batches(indices):
                for photo in photos:
                    self.audit.add(dataset, photo.sample.name, photo.sample.mask)
                with torch.inference_mode():
                    self._record(photos)
                recorder.finish(len(photos))
                bar.update(len(photos))
                if len(recorder.failures) == len(self.specs):
                    return

    def _bar(self, total: int, title: str) -> Bar:
        return Bar(total=total, desc=title, unit="img", disable=not self.progress)

    def _by_variant(self, specs: Iterable[Spec]) -> list[tuple[Variant, list[Spec]]]:
        """Each variant once, with its specs."""
        groups: dict[str, tuple[Variant, list[Spec]]] = {}
        for spec in specs:
            variant = spec.attention.given(self.readouts[spec.key].texts)
            groups.setdefault(variant.key, (variant, []))[1].append(spec)
        return list(groups.values())

    def _windows(self, photos: Sequence[Photo], variants: int) -> Windows:
        most = self.batch_windows or pipeline.at_once(
            self.backbone, photos[0].plan, variants, self.guide
        )
        planned = [(photo.plan, photo.pixels) for photo in photos]
        counts = [partial(photo.patch_counts, self.dataset.ignore_index) for photo in photos]
        return Windows(planned, self.protocol.views, self.backbone, self.guide, most, counts)

    def _encoded(
        self, windows: Windows, photos: Sequence[Photo], groups: Sequence[tuple[Variant, Any]]
    ) -> Iterator[tuple[int, slice, Encoded]]:
        """As `pipeline.run`; the specs of a variant that raises are recorded as failed."""
        self.encoder.photos = [photo.sample.name for photo in photos]

        def failed(index: int, error: Exception) -> None:
            for spec in groups[index][1]:
                self._fail(spec, photos, error)

        variants = [variant for variant, _ in groups]
        return pipeline.run(self.encoder, windows, variants, failed)

    def _fail(self, spec: Spec, photos: Sequence[Photo], error: Exception) -> None:
        for photo in photos:
            self.recorder.fail(spec, photo.sample.name, error)

    def _refer(self, photos: Sequence[Photo]) -> None:
        """Summarise one batch of photos for readouts that read other photos."""
        failures = self.recorder.failures
        groups = self._by_variant(s for s in self.references.specs if s.key not in failures)
        if not groups:
            return
        windows = self._windows(photos, len(groups))
        collected = Collected(windows)
        for index, chunk, encoded in self._encoded(windows, photos, groups):
            whole = collected.add(index, chunk, encoded)
            del encoded  # or it stays while the next chunk is encoded
            if whole is None:
                continue
            for number, photo in enumerate(photos):
                first_view = whole.part(windows.first_view(number))
                for spec in groups[index][1]:
                    try:
                        self.references.add(spec, photo, first_view)
                    except Exception as error:
                        self._fail(spec, [photo], error)
            del whole, first_view

    def _record(self, photos: Sequence[Photo]) -> None:
        """Compute what is missing of one batch of photos, and record it."""
        recorder, names = self.recorder, [photo.sample.name for photo in photos]

        def missing(specs: Iterable[Spec]) -> list[Spec]:
            return [s for s in specs if any(recorder.needs(s, name) for name in names)]

        def needs_whole(spec: Spec) -> bool:
            readout = self.readouts[spec.key]
            observed = any(recorder.observes(spec, name) for name in names)
            return observed or readout.steps.sees_photo or readout.steps.reads_windows

        def needs_history(spec: Spec) -> bool:
            observed = any(recorder.observes(spec, name) for name in names)
            return observed or "history" in self.readouts[spec.key].steps.uses

        groups = self._by_variant(missing(self.specs))
        if not groups:  # all have failed before
            return
        windows = self._windows(photos, len(groups))
        counts = DeviceCounts(photos, windows) if self.backbone.device.type in BATCHED_ON else None
        collected, parts = Collected(windows), list(zip(names, windows.parts, strict=True))
        # (variant, key of a readout's logits) -> the logits of each chunk so far.
        logits: dict[Any, list[Tensor]] = {}
        for index, chunk, encoded in self._encoded(windows, photos, groups):
            specs, whole = missing(groups[index][1]), None
            if chunk == windows.every or any(map(needs_whole, specs)):
                history = any(map(needs_history, specs))
                whole = collected.add(index, chunk, encoded, history)
            for spec in specs:
                readout = self.readouts[spec.key]
                source, at = (
                    (whole, windows.every) if readout.steps.sees_photo else (encoded, chunk)
                )
                if source is None:
                    continue
                chunks = logits.setdefault((index, readout.logits_key), [])
                try:
                    with recorder.timings.measure("readout"):
                        if sum(map(len, chunks)) == at.start:
                            chunks.append(self.references.logits(spec, source, at, parts))
                except Exception as error:
                    self._fail(spec, photos, error)
                    continue
                if at.stop == windows.every.stop:
                    self._finish(spec, photos, windows, torch.cat(chunks), whole, counts)
            source = None
            del encoded, whole  # or they stay while the next chunk is encoded
        if counts is not None:
            self._fetch(counts)

    def _fetch(self, counts: DeviceCounts) -> None:
        """Record what a batch has counted on the device."""
        with self.recorder.timings.measure("count"):
            for spec, matrices in counts.fetch():
                if matrices is None:
                    self._fail(spec, counts.photos, LabError(NOT_FINITE.format("patch logits")))
                    continue
                for photo, matrix in zip(counts.photos, matrices, strict=True):
                    rows = metrics.of_matrix(matrix[:-1])
                    self.recorder.count(spec, photo.sample.name, rows)

    def _finish(
        self,
        spec: Spec,
        photos: Sequence[Photo],
        windows: Windows,
        logits: Tensor,
        whole: Encoded | None,
        counts: DeviceCounts | None,
    ) -> None:
        """Label the photos by one spec, and record counts and observations."""
        recorder, readout = self.recorder, self.readouts[spec.key]
        labels: list[Tensor] | None = None
        if counts is not None and counts.takes(readout, logits):
            try:
                with recorder.timings.measure("readout"):
                    labels = counts.add(spec, readout, logits)
            except PhotoError:
                pass  # label photo by photo below, so that only the photo at fault fails
            except Exception as error:
                self._fail(spec, photos, error)
                return
        for number, photo in enumerate(photos):
            name, first_view = photo.sample.name, windows.first_view(number)
            if not recorder.needs(spec, name):
                continue
            of_photo = logits[windows.parts[number]]
            encoded = None
            if readout.steps.reads_windows or recorder.observes(spec, name):
                assert whole is not None
                encoded = whole.part(first_view)
            on_grid = replace(photo, plan=photo.plan.on_grid((logits.shape[1], logits.shape[2])))
            try:
                if labels is not None:
                    if encoded is not None:
                        view = View(spec, on_grid, labels[number], encoded, logits[first_view])
                        recorder.observe(view)
                    continue
                with recorder.timings.measure("readout"):
                    prediction = pipeline.label(readout, windows, number, of_photo, encoded)
                recorder.record(View(spec, on_grid, prediction, encoded, logits[first_view]))
            except PhotoError as error:
                recorder.fail_photo(name, error)
            except Exception as error:
                self._fail(spec, [photo], error)
