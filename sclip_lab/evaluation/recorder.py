"""Write the results of a pass to the store: counts, and what observers keep."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sclip_lab.core import signals
from sclip_lab.core.errors import CrashError, LabError, describe, traceback_of
from sclip_lab.core.timings import Timings
from sclip_lab.evaluation.loader import Photo, PhotoError
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.store import Store
from sclip_lab.results.table import metrics
from sclip_lab.segmentation.encoded import Encoded

log = logging.getLogger(__name__)
FLUSH_SECONDS = 10.0
FLUSH_IMAGES = 64


class SpecError(CrashError):
    """One spec failed; the others go on."""


@dataclass(frozen=True)
class View:
    """What an observer sees of one spec on one photo.

    Attributes:
        spec, photo: what was evaluated, and on which photo.
        prediction: (height, width) class ids.
        encoded: the network's output for the photo's own windows, without the protocol's further
            views; None unless an observer asks for it.
        logits: (windows, grid_h, grid_w, queries) patch logits of the same windows.
    """

    spec: Spec
    photo: Photo
    prediction: Tensor
    encoded: Encoded | None
    logits: Tensor


class Observer(Protocol):
    """Keeps something besides the counts for some images."""

    def pending(self, store: Store, spec: Spec) -> set[str]:
        """Names of the images whose observation is not in the store yet."""

    def observe(self, store: Store, view: View) -> None:
        """Keep what this observer needs of one spec on one image."""

    def flush(self, store: Store) -> None:
        """Write what was kept."""


@dataclass
class Recorder(AbstractContextManager["Recorder"]):
    """Knows what the store lacks, and writes it a few images at a time.

    As a context manager it writes the rest on exit, after an error as well.

    Attributes:
        specs: of one data set, opened in the store.
        names: the requested images.
        skip: leave out each image on which a spec fails, and record why. Otherwise a spec stops
            at its first failure.
        failures: what happened to the specs that failed, by their keys.
    """

    specs: Sequence[Spec]
    store: Store
    observers: Sequence[Observer]
    names: Sequence[str]
    timings: Timings
    skip: bool = False
    failures: dict[str, SpecError] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names, specs, store = set(self.names), self.specs, self.store
        self._crashed: set[str] = set()
        self.uncounted = {s.key: names - store.done(s) for s in specs}
        self.unobserved = [
            {s.key: o.pending(store, s) & names for s in specs} for o in self.observers
        ]
        self._known_skips = {s.key: store.skipped(s) for s in specs} if self.skip else {}
        self._counts: dict[str, list[Mapping[str, Any]]] = {s.key: [] for s in specs}
        self._skips: dict[str, list[Mapping[str, Any]]] = {s.key: [] for s in specs}
        self._flushed, self._waiting = time.monotonic(), 0

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        except KeyboardInterrupt:  # a signal came while this was written, so it is written again
            self.flush()
            raise

    def missing(self, name: str) -> list[Spec]:
        """The specs of which something is missing on this image."""
        return [spec for spec in self.specs if self.needs(spec, name)]

    def needs(self, spec: Spec, name: str) -> bool:
        """Whether something is missing of this spec on this image, and can be had."""
        if spec.key in self.failures:
            return False
        sets = (self.uncounted, *self.unobserved)
        return any(name in missing[spec.key] for missing in sets)

    def observes(self, spec: Spec, name: str) -> bool:
        """Whether an observer asks for one spec on one image."""
        return any(name in pending[spec.key] for pending in self.unobserved)

    def record(self, view: View) -> None:
        """Record what is missing of one spec on one image.

        Raises:
            PhotoError: a mask that does not fit its photo or vocabulary.
        """
        spec, sample = view.spec, view.photo.sample
        if sample.name in self.uncounted[spec.key]:
            classes, ignored = spec.vocabulary.num_classes, spec.dataset.ignore_index
            try:
                with self.timings.measure("count"):
                    rows = metrics.count(view.prediction, sample.mask, classes, ignored)
            except LabError as error:
                raise PhotoError(spec.dataset.name, sample.name, error) from None
            self.count(spec, sample.name, rows)
        self.observe(view)

    def count(self, spec: Spec, name: str, rows: metrics.Rows) -> None:
        """Record the counts of one spec on one image, if they are missing."""
        if name not in self.uncounted[spec.key]:
            return
        true, predicted, pixels = rows
        if not len(pixels):
            # An image of void alone is finished too: one row that counts nothing says so.
            true, predicted, pixels = (np.zeros(1, dtype=a.dtype) for a in rows)
        counted = {"image": name, "true": true, "predicted": predicted, "pixels": pixels}
        self._counts[spec.key].append(counted)

    def observe(self, view: View) -> None:
        """Show one spec on one image to the observers that ask for it."""
        name, key = view.photo.sample.name, view.spec.key
        for observer, pending in zip(self.observers, self.unobserved, strict=True):
            if name in pending[key]:
                with self.timings.measure("observers"):
                    observer.observe(self.store, view)

    def fail(self, spec: Spec, name: str, error: Exception) -> None:
        """Record that one spec cannot be computed on one image; the other specs go on.

        Raises:
            Exception: ``error`` itself if it is no fault of the spec: too little memory, a disk.
        """
        causes = (error, error.__cause__)
        if any(isinstance(e, OSError | MemoryError | torch.OutOfMemoryError) for e in causes):
            raise error
        failure = SpecError(f"{spec.label} on image {name}: {describe(error)}")
        failure.__cause__ = error
        if self.skip:
            if spec.key not in self._crashed and (lines := traceback_of(failure)):
                self._crashed.add(spec.key)  # the same bug on each photo is shown once
                log.error("%s\n%s", failure, lines)
            self._leave_out(spec, name, error)
        else:
            self.failures.setdefault(spec.key, failure)

    def fail_photo(self, name: str, error: PhotoError) -> None:
        """Record that no spec can be computed on one image; the pass goes on with the others.

        Raises:
            PhotoError: unless failures are to be skipped.
        """
        if not self.skip:
            raise error
        for spec in self.missing(name):
            self._leave_out(spec, name, error)

    def finish(self, images: int) -> None:
        """Count more images as complete; write them every few images or seconds."""
        self.timings.images += images
        self._waiting += images
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if late or self._waiting >= FLUSH_IMAGES:
            self.flush()
        signals.check()

    def flush(self) -> None:
        """Write the rows so far. After a signal they can be written again: the store counts a row
        once, even if it is there twice."""
        with self.timings.measure("store"):
            for spec in self.specs:
                for kind, rows in (("rows", self._counts), ("skipped", self._skips)):
                    if rows[spec.key]:
                        self.store.append(spec, rows[spec.key], kind)
                        rows[spec.key] = []
            for observer in self.observers:
                observer.flush(self.store)
        self._flushed, self._waiting = time.monotonic(), 0

    def compact(self) -> None:
        """Join the files of each spec into one, if the store can be written."""
        for spec in self.specs:
            try:
                self.store.compact(spec)
            except LabError as error:
                log.debug("files stay apart: %s", error)

    def _leave_out(self, spec: Spec, name: str, error: Exception) -> None:
        self.uncounted[spec.key].discard(name)
        for pending in self.unobserved:
            pending[spec.key].discard(name)
        reason = describe(error)
        if self._known_skips[spec.key].get(name) != reason:
            self._skips[spec.key].append({"image": [name], "reason": reason, "at": time.time()})
