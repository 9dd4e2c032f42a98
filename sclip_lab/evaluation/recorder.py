"""What a pass found on its way into the store: counts, and what observers keep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sclip_lab.errors import LabError
from sclip_lab.evaluation.loader import Photo
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results import metrics
from sclip_lab.results.store import Store
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.timings import Timings

FLUSH_SECONDS = 10.0
FLUSH_IMAGES = 64


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


class Recorder:
    """Knows what is missing in the store, and writes it there a few images at a time.

    Args:
        specs: of one data set.
        store: opened for all of them.
        observers: see `sclip_lab.evaluation.observers`.
        names: the images that are asked for.
        timings: told the seconds of counting, observing and writing.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        store: Store,
        observers: Sequence[Observer],
        names: Sequence[str],
        timings: Timings,
    ) -> None:
        self.specs = specs
        self.store = store
        self.observers = observers
        self.timings = timings
        self.uncounted = {s.key: set(names) - store.done(s) for s in specs}
        self.unobserved = [
            {s.key: o.pending(store, s) & set(names) for s in specs} for o in observers
        ]
        self._counts: dict[str, list[Mapping[str, Any]]] = {s.key: [] for s in specs}
        self._flushed, self._waiting = time.monotonic(), 0

    def wanted(self, name: str) -> list[Spec]:
        """The specs of which something is missing on this image."""
        return [
            spec
            for spec in self.specs
            if name in self.uncounted[spec.key]
            or any(name in pending[spec.key] for pending in self.unobserved)
        ]

    def record(self, view: View) -> None:
        """Take what is missing of one spec on one image.

        Raises:
            LabError: a mask that does not fit its photo or vocabulary.
        """
        name, key = view.photo.sample.name, view.spec.key
        if name in self.uncounted[key]:
            with self.timings.measure("count"):
                self._counts[key].append(_counted(view))
        for observer, pending in zip(self.observers, self.unobserved, strict=True):
            if name in pending[key]:
                with self.timings.measure("observers"):
                    observer.observe(self.store, view)

    def finish(self, images: int) -> None:
        """So many more images are complete; write them when it is time."""
        self.timings.images += images
        self._waiting += images
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if late or self._waiting >= FLUSH_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        with self.timings.measure("store"):
            for spec in self.specs:
                self.store.append(spec, self._counts[spec.key])
                self._counts[spec.key] = []
            for observer in self.observers:
                observer.flush(self.store)
        self._flushed, self._waiting = time.monotonic(), 0

    def compact(self) -> None:
        """Join the files of each spec into one."""
        for spec in self.specs:
            self.store.compact(spec)


def _counted(view: View) -> Mapping[str, Any]:
    """One image's rows for the store."""
    spec, sample = view.spec, view.photo.sample
    classes, ignored = spec.vocabulary.num_classes, spec.dataset.ignore_index
    try:
        rows = metrics.count(view.prediction, sample.mask, classes, ignored)
    except LabError as error:
        where = f"data set {spec.dataset.name}, image {sample.name}"
        raise LabError(f"{where}: {error}") from None
    true, predicted, pixels = rows
    if not len(pixels):
        # An image of void alone is finished too: one row that counts nothing says so.
        true, predicted, pixels = (np.zeros(1, dtype=a.dtype) for a in rows)
    return {"image": sample.name, "true": true, "predicted": predicted, "pixels": pixels}
