"""The one loop: specs in, confusion counts out, one pass for all that share their windows.

It knows no variant, data set or measure by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sclip_lab import results
from sclip_lab.attention.variant import Variant
from sclip_lab.core import signals
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.timings import Timings
from sclip_lab.evaluation.loader import Batch, Loader, Photo, PhotoError
from sclip_lab.evaluation.recorder import Observer, Recorder, View
from sclip_lab.evaluation.references import References
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import Encoder, TrunkCache
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import tree, views
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.prompts import embed_vocabulary

log = logging.getLogger(__name__)
ON_ERROR = ("stop", "skip")


def evaluate(
    specs: Iterable[Spec],
    store: Store | str | Path = "results/store",
    *,
    observers: Sequence[Observer] = (),
    shard: tuple[int, int] = (0, 1),
    batch_images: int | None = None,
    trunk_cache_gb: float = 0.0,
    on_error: str = "stop",
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
    if on_error not in ON_ERROR:
        raise unknown("on_error", str(on_error), ON_ERROR)
    store = store if isinstance(store, Store) else Store(store)
    timings = timings or Timings()
    unique = list({spec.key: spec for spec in specs}.values())
    if not unique:
        raise LabError("no specs to evaluate")
    groups = passes(unique, shard)
    for spec in unique:
        store.open(spec)
    cache = TrunkCache(store.root / "trunk", trunk_cache_gb) if trunk_cache_gb else None
    failed: dict[str, LabError] = {}
    rows: dict[Any, Tensor] = {}  # text embeddings by query: many vocabularies share their words
    with signals.raised():
        for group in groups:
            names = list(group[0].dataset.names)
            mine = names[shard[0] :: shard[1]]
            recorder = Recorder(group, store, observers, mine, timings, on_error == "skip")
            indices = [i for i, name in enumerate(names) if recorder.wanted(name)]
            if indices:
                store.check_writable()
                try:
                    _run(group, indices, recorder, batch_images, cache, progress, rows)
                except PhotoError as error:
                    failed |= {spec.key: error for spec in recorder.wanted(error.image)}
            failed |= recorder.failures
            if shard == (0, 1):
                recorder.compact()
    if failed:
        raise Unfinished(failed) from next(iter(failed.values()))
    labels = {spec.key: spec.label for spec in unique}
    return results.load(store.root, list(labels), partial=True, labels=labels)


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
    """Specs that see the same windows of the same photos with the same network, and with the same
    second network if any."""
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
    found = []
    for by_guide in groups.values():
        unguided = by_guide.pop(None, [])
        first, *others = by_guide.values() or [[]]
        found += [unguided + first, *others]
    return found


def _run(
    specs: Sequence[Spec],
    indices: Sequence[int],
    recorder: Recorder,
    batch_images: int | None,
    cache: TrunkCache | None,
    progress: bool,
    rows: dict[Any, Tensor],
) -> None:
    """One pass over the images of one data set."""
    # The same of all specs, but for the weights of views and for what comes behind the network.
    backbone, dataset, protocol = specs[0].backbone, specs[0].dataset, specs[0].protocol
    ignore_index = dataset.ignore_index
    guide = next((spec.guidance for spec in specs if spec.guidance is not None), None)
    timings = recorder.timings
    readouts = _make_readouts(specs, recorder, progress, rows)
    given = [spec.attention.given(readouts[spec.key].texts) for spec in specs]
    variants = list({variant.key: variant for variant in given}.values())
    blocks, apart = tree.cost(backbone.depth, variants)
    log.info("%d variants run %d blocks per photo, apart %d", len(variants), blocks, apart)
    encoder = Encoder(backbone, dataset, protocol, cache, timings)
    failed = recorder.fail_photo
    loader = Loader(dataset, protocol, backbone, batch_images, timings, failed)
    title = f"{len(specs)} x {dataset.name}"
    missing = [spec for spec in specs if any(map(partial(recorder.needs, spec), dataset.names))]
    references = References(missing, readouts)
    if references.specs:
        with tqdm(total=len(dataset), desc="other photos", unit="img", disable=not progress) as bar:
            for photos in loader.batches(range(len(dataset))):
                with torch.inference_mode():
                    batch = Batch.cut(photos, protocol.views, backbone, guide, ignore_index)
                    _refer(batch, encoder, references, recorder)
                signals.check()
                bar.update(len(photos))
    with recorder, tqdm(total=len(indices), desc=title, unit="img", disable=not progress) as bar:
        for photos in loader.batches(indices):
            with torch.inference_mode():
                batch = Batch.cut(photos, protocol.views, backbone, guide, ignore_index)
                _run_batch(batch, encoder, references, recorder)
            recorder.finish(len(photos))
            bar.update(len(photos))
            if len(recorder.failures) == len(specs):
                return


def _run_batch(batch: Batch, encoder: Encoder, references: References, recorder: Recorder) -> None:
    """All that is missing of one batch of photos into the recorder."""
    readouts, names = references.readouts, [photo.sample.name for photo in batch.photos]
    wanted = [s for s in recorder.specs if any(map(partial(recorder.needs, s), names))]
    for specs, encoded in _encoded(batch, encoder, _by_variant(wanted, readouts), recorder):
        logits: dict[Any, Tensor] = {}
        for spec in specs:
            readout = readouts[spec.key]
            for photo, part in zip(batch.photos, batch.parts, strict=True):
                if not recorder.needs(spec, photo.sample.name):
                    continue
                # Refinements and observers look at the first view: the photo itself.
                own = encoded.part(slice(part.start, part.start + photo.plan.num_windows))
                try:
                    with recorder.timings.measure("readout"):
                        if readout.logits_key not in logits:
                            logits[readout.logits_key] = references.logits(spec, encoded, batch)
                        of_photo = logits[readout.logits_key][part]
                        on_grid = replace(photo, plan=photo.plan.on_grid(_grid(of_photo)))
                        prediction = _label(spec, on_grid, readout, of_photo, own)
                    first_view = of_photo[: photo.plan.num_windows]
                    recorder.record(View(spec, on_grid, prediction, own, first_view))
                except PhotoError as error:
                    recorder.fail_photo(photo.sample.name, error)
                except Exception as error:
                    recorder.fail(spec, photo.sample.name, error)


def _refer(batch: Batch, encoder: Encoder, references: References, recorder: Recorder) -> None:
    """One batch of photos into the summaries of readouts that read other photos."""
    wanted = [spec for spec in references.specs if spec.key not in recorder.failures]
    groups = _by_variant(wanted, references.readouts)
    for specs, encoded in _encoded(batch, encoder, groups, recorder):
        for photo, part in zip(batch.photos, batch.parts, strict=True):
            own = encoded.part(slice(part.start, part.start + photo.plan.num_windows))
            for spec in specs:
                try:
                    references.add(spec, photo, own)
                except Exception as error:
                    recorder.fail(spec, photo.sample.name, error)


def _by_variant(
    specs: Sequence[Spec], readouts: Mapping[str, Readout]
) -> list[tuple[Variant, list[Spec]]]:
    """Each variant once, with its specs."""
    groups: dict[str, tuple[Variant, list[Spec]]] = {}
    for spec in specs:
        variant = spec.attention.given(readouts[spec.key].texts)
        groups.setdefault(variant.key, (variant, []))[1].append(spec)
    return list(groups.values())


def _encoded(
    batch: Batch,
    encoder: Encoder,
    groups: Sequence[tuple[Variant, list[Spec]]],
    recorder: Recorder,
) -> Iterator[tuple[list[Spec], Encoded]]:
    """The batch as each variant sees it, with its specs.

    A variant that raises ends the tree of all; those that are left then run one by one.
    """
    left = {index: variant for index, (variant, _) in enumerate(groups)}
    try:
        order = list(left)
        for index, encoded in encoder.encode(batch, list(left.values())):
            del left[order[index]]
            yield groups[order[index]][1], encoded
    except Exception as error:
        if len(groups) > 1:
            for index in left:
                yield from _encoded(batch, encoder, [groups[index]], recorder)
            return
        for spec in groups[0][1]:
            for photo in batch.photos:
                recorder.fail(spec, photo.sample.name, error)


def _grid(logits: Tensor) -> tuple[int, int]:
    """(grid_h, grid_w) of (windows, grid_h, grid_w, queries)."""
    return logits.shape[1], logits.shape[2]


def _label(spec: Spec, photo: Photo, readout: Readout, logits: Tensor, encoded: Encoded) -> Tensor:
    """(height, width) class ids of one photo from the patch logits of all its views."""
    laid_out = photo.plan.lay_out(views.average(logits, spec.protocol.views))
    return readout.predict(photo.plan, laid_out, photo.input, encoded)


def _make_readouts(
    specs: Sequence[Spec], recorder: Recorder, progress: bool, rows: dict[Any, Tensor]
) -> dict[str, Readout]:
    """A readout for each spec's key; specs of one vocabulary and prompts share their text."""
    texts: dict[Any, Tensor] = {}
    readouts = {}
    with recorder.timings.measure("text"):
        for spec in specs:
            backbone, protocol = spec.backbone, spec.protocol
            wanted = {
                "text": (spec.vocabulary, protocol.templates),
                "auxiliary": (spec.auxiliary, protocol.templates),
                "second": (spec.vocabulary, protocol.second_templates),
            }
            found: dict[str, Any] = {"text": None}
            for name, (vocabulary, prompts) in wanted.items():
                if vocabulary is None or prompts is None or not backbone.has_text:
                    continue
                key = (vocabulary.key, prompts)
                if key not in texts:
                    text = embed_vocabulary(
                        backbone, vocabulary, prompts, recorder.store.text_cache, progress, rows
                    )
                    texts[key] = text.to(backbone.device)
                found[name] = texts[key]
            classes = torch.tensor(spec.vocabulary.query_classes)
            readouts[spec.key] = Readout(protocol, query_classes=classes, **found)
    return readouts
