"""Tokens in front of the first rewritten block, kept on disk for the next sweep.

A sweep of last-block variants spends most of its time on blocks that no variant changes; another
sweep over the same photos with other variants would compute the same tokens again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sclip_lab import atomic
from sclip_lab.errors import LabError

log = logging.getLogger(__name__)


class TrunkCache:
    """Token files below one folder, the least recently used given up beyond a size.

    Safe with several processes: files appear whole, and one that goes away while another process
    looks for it counts as not there.

    Args:
        folder: made when the first file is written.
        gigabytes: upper bound on all files together, above 0.

    Raises:
        LabError: a bound that is not above 0.
    """

    def __init__(self, folder: str | Path, gigabytes: float) -> None:
        if gigabytes <= 0:
            raise LabError(f"trunk_cache {gigabytes} GB must be above 0")
        self.folder = Path(folder)
        self.limit = int(gigabytes * 1e9)

    def load(self, key: str) -> Tensor | None:
        """The tokens, or None where they are not there or not what was written."""
        path = self._path(key)
        try:
            found = load_file(path)
            os.utime(path)
            tokens = found["tokens"]
            whole = bytes(found["sha256"].numpy()) == _digest(tokens)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError):
            whole = False
        if whole:
            return tokens
        log.warning("%s is damaged; computed again", path)
        path.unlink(missing_ok=True)
        return None

    def save(self, key: str, tokens: Tensor) -> None:
        """Keep (windows, tokens, width) of one photo; files used longest ago make room."""
        tokens = tokens.detach().cpu().contiguous()
        digest = torch.frombuffer(bytearray(_digest(tokens)), dtype=torch.uint8)
        atomic.write_tensors(self._path(key), {"tokens": tokens, "sha256": digest})
        self._make_room()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size


def _digest(tokens: Tensor) -> bytes:
    return hashlib.sha256(tokens.contiguous().view(torch.uint8).numpy().data).digest()
