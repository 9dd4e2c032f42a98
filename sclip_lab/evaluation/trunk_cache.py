"""A cache on disk of the tokens that enter the first rewritten block.

A sweep of last-block variants spends most of its time on blocks that no variant changes. Another
sweep with other variants over the same photos reads their tokens here instead of computing them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import target_modules
from sclip_lab.core.identity import digest, of_code
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import Dataset
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Scene
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.pipeline import Encoder, Windows
from sclip_lab.segmentation.protocol import Protocol

log = logging.getLogger(__name__)


class TrunkCache:
    """Token files in one folder. Beyond a size limit the least recently used are deleted.

    Several processes may share it: files appear whole, and a file that another process has just
    deleted counts as absent.

    Args:
        folder: made when the first file is written.
        gigabytes: upper bound on all files together, above 0.
    """

    def __init__(self, folder: str | Path, gigabytes: float) -> None:
        if gigabytes <= 0:
            raise LabError(f"trunk_cache {gigabytes} GB must be above 0")
        self.folder = Path(folder)
        self.limit = int(gigabytes * 1e9)
        files.sweep(self.folder)

    def load(self, key: str) -> Tensor | None:
        """Return the tokens, or None if they are absent, unreadable or damaged."""
        path = self._path(key)
        try:
            tokens = files.read_tensors(path, _belongs(key))[0]["tokens"]
        except files.Damaged as damaged:
            files.set_aside(self.folder.parent, damaged)
            return None
        except (FileNotFoundError, LabError):  # if nothing can be written either, saving says so
            return None
        with contextlib.suppress(OSError):  # a read-only cache cannot note when a file was used
            os.utime(path)
        return tokens

    def save(self, key: str, tokens: Tensor) -> None:
        """Write (windows, tokens, width) of one photo, if they fit.

        Args:
            key: "<sweep>-<photo>", or a word. Files of other sweeps are deleted to make room, the
                least recently used first. Files of the same sweep stay: otherwise a sweep larger
                than the cache would delete each file before it is read again.
            tokens: any type.
        """
        if self._make_room(key.partition("-")[0], tokens.nbytes):
            files.write_tensors(self._path(key), {"tokens": tokens}, _belongs(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self, sweep: str, size: int) -> bool:
        total, others = size, []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                total += status.st_size
                if path.stem.partition("-")[0] != sweep:
                    others.append((status.st_mtime_ns, status.st_size, path))
        if total - sum(occupied for _, occupied, _ in others) > self.limit:
            return False
        for _, occupied, path in sorted(others):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= occupied
        return True


class CachedEncoder(Encoder):
    """Reads the trunk's tokens from a cache, and writes those that are not there.

    Without a cache it computes everything. Set ``photos``, the names of the photos whose windows
    follow, before `begin`.
    """

    def __init__(
        self,
        backbone: Backbone,
        dataset: Dataset,
        protocol: Protocol,
        cache: TrunkCache | None,
        timings: Timings,
    ) -> None:
        super().__init__(backbone, protocol.position_embedding, timings)
        self.cache = cache
        self.photos: Sequence[str] = ()
        self._common = {
            "backbone": backbone.key,
            "device": backbone.device.type,
            "dataset": dataset.key,
            "geometry": protocol.geometry,
            "code": of_code(target_modules(protocol.views)),
        }

    def begin(self, windows: Windows, level: int) -> None:
        self._windows, self._level = windows, level
        self._tokens: Tensor | None = None
        self._computed: list[Tensor] = []
        if self.cache is None:
            return
        with self.timings.measure("trunk cache"):
            loaded = [self.cache.load(self._key(name)) for name in self.photos]
        present = [tokens for tokens in loaded if tokens is not None]
        self._tokens = torch.cat(present) if len(present) == len(loaded) else None

    def known(self, chunk: slice) -> tuple[int, Tensor] | None:
        return None if self._tokens is None else (self._level, self._tokens[chunk])

    def encode(
        self, chunk: slice, images: Tensor, variants: Sequence[Variant], scene: Scene
    ) -> Iterator[tuple[int, Encoded]]:
        for index, encoded in super().encode(chunk, images, variants, scene):
            computed = sum(map(len, self._computed))
            if self.cache is not None and self._tokens is None and computed == chunk.start:
                self._computed.append(encoded.history[self._level].tokens)
                if chunk.stop == self._windows.every.stop:
                    self._save(torch.cat(self._computed))
            yield index, encoded

    def _save(self, tokens: Tensor) -> None:
        assert self.cache is not None
        try:
            with self.timings.measure("trunk cache"):
                for name, part in zip(self.photos, self._windows.parts, strict=True):
                    self.cache.save(self._key(name), tokens[part])
        except LabError as error:
            log.warning("%s; computed on without a trunk cache", error)
            self.cache = None

    def _key(self, photo: str) -> str:
        sweep = digest({**self._common, "level": self._level})
        return f"{sweep[:16]}-{digest([sweep, photo])}"


def _belongs(key: str) -> dict[str, str]:
    return {"kind": "trunk", "key": key}
