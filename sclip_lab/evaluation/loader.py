"""Decode photos ahead of their use, and batch those whose windows have the same size."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from sclip_lab.core.errors import CrashError, LabError, describe
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.truth import majority
from sclip_lab.segmentation import photos, windows
from sclip_lab.segmentation.protocol import Protocol

# A batch on a GPU has so many images, or fewer once it has so many windows. A user's number of
# images replaces both.
GPU_IMAGES = 16
GPU_WINDOWS = 96
# Most photos that wait for others of their size, counted in full batches.
BATCHES_WAITING = 4


class PhotoError(CrashError):
    """A photo or mask, ``image`` in its data set, that no variant can use."""

    def __init__(self, dataset: str, image: str, reason: Exception | str) -> None:
        self.image = image
        text = describe(reason) if isinstance(reason, Exception) else reason
        # A reason that holds the image's name needs no other.
        super().__init__(text if image in text else f"data set {dataset}, image {image}: {text}")
        self.__cause__ = reason if isinstance(reason, Exception) else None


@dataclass(frozen=True)
class Photo:
    """One sample, ready for the network.

    Attributes:
        sample: the photo as it was decoded, with its mask; the middle of both, if the protocol
            crops photos.
        plan: its windows.
        pixels: (3, *plan.resized) uint8 on the CPU.
        memo: computed values that do not depend on the variant.
    """

    sample: Sample
    plan: windows.Plan
    pixels: Tensor
    memo: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def patch_counts(self, ignore_index: int) -> Tensor:
        """`windows.patch_counts` of the mask: (windows, grid_h, grid_w, classes)."""
        key = self.plan, ignore_index
        if key not in self.memo:
            self.memo[key] = windows.patch_counts(self.plan, self.sample.mask, ignore_index)
        return self.memo[key]

    def patch_labels(self, ignore_index: int) -> Tensor:
        """(windows, grid_h, grid_w) int64: majority class of each patch, -1 where it is void."""
        return majority(self.patch_counts(ignore_index))


@dataclass
class Loader(AbstractContextManager["Loader"]):
    """Loads the photos of one data set, resized and cut as one protocol says.

    Threads decode photos ahead of their use, until the context ends.

    Attributes:
        dataset, protocol, backbone: which photos, how they are prepared, and for which network.
        images: per batch; None: 1 on a CPU, 16 on a GPU, fewer of many windows.
        timings: takes the seconds of waiting.
        failed: called with the name of a photo that cannot be used, and why. If it returns, the
            photo is left out.
    """

    dataset: Dataset
    protocol: Protocol
    backbone: Backbone
    images: int | None
    timings: Timings
    failed: Callable[[str, PhotoError], None]

    def __post_init__(self) -> None:
        on_gpu = self.backbone.device.type == "cuda"
        self.batch_images = self.images or (GPU_IMAGES if on_gpu else 1)
        self.most_windows = math.inf if self.images else GPU_WINDOWS
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._started: dict[int, Future[Photo]] = {}

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, indices: Sequence[int]) -> None:
        """Begin to decode the first of these photos in other threads, and return at once."""
        for index in indices[: 2 * self.batch_images]:
            self._started[index] = self._pool.submit(self.load, index)

    def load(self, index: int) -> Photo:
        """Decode and prepare the sample at ``index``.

        Raises:
            LabError: the sample cannot be used.
        """
        sample, name = self.dataset[index], self.dataset.names[index]
        image, mask = getattr(sample, "image", None), getattr(sample, "mask", None)
        is_ids = (
            isinstance(mask, np.ndarray) and mask.dtype.kind in "iu" and mask.min(initial=0) >= 0
        )
        if not is_ids or not isinstance(image, np.ndarray):
            raise LabError(
                f"data set {self.dataset.name}, image {name}: gives a {type(sample).__name__} that "
                "is no Sample(name, image, mask) of an RGB array and of ids, whole numbers from 0"
            )
        if sample.name != name:
            raise LabError(
                f"data set {self.dataset.name}, image {name}: its sample is named "
                f"{sample.name!r}, which must be equal to that entry of `names`"
            )
        if self.protocol.centre_crop is not None:
            image, mask = (photos.centre(a, self.protocol) for a in (sample.image, sample.mask))
            sample = replace(sample, image=image, mask=mask)
        return Photo(sample, *photos.prepare(sample.image, self.protocol, self.backbone))

    def batches(self, indices: Sequence[int]) -> Iterator[list[Photo]]:
        """Yield photos in batches whose windows have the same size.

        A photo waits until its batch is full. When too many wait, the largest batch is yielded.

        Raises:
            PhotoError: a photo cannot be used, once all photos before it were yielded.
        """
        views_each = max(1, len(self.protocol.views or ()))
        buckets: dict[tuple[int, int], list[Photo]] = {}
        try:
            for photo in self._photos(indices):
                size = photo.plan.rows.seen, photo.plan.columns.seen
                bucket = buckets.setdefault(size, [])
                bucket.append(photo)
                cut = views_each * sum(other.plan.num_windows for other in bucket)
                if len(bucket) == self.batch_images or cut >= self.most_windows:
                    yield buckets.pop(size)
                elif sum(map(len, buckets.values())) >= BATCHES_WAITING * self.batch_images:
                    yield buckets.pop(max(buckets, key=lambda size: len(buckets[size])))
        except PhotoError:
            yield from buckets.values()
            raise
        yield from buckets.values()

    def _photos(self, indices: Sequence[int]) -> Iterator[Photo]:
        """Yield photos in order; threads decode them ahead."""
        names = self.dataset.names
        ahead: deque[tuple[int, Future[Photo]]] = deque()
        remaining = iter(indices)
        while True:
            for index in islice(remaining, 2 * self.batch_images - len(ahead)):
                started = self._started.pop(index, None)
                ahead.append((index, started or self._pool.submit(self.load, index)))
            if not ahead:
                return
            index, future = ahead.popleft()
            try:
                with self.timings.measure("waiting for photos"):
                    photo = future.result()
            except MemoryError:
                raise
            except Exception as error:  # a data set of the user's may raise anything
                self.failed(names[index], PhotoError(self.dataset.name, names[index], error))
                continue
            yield photo
