"""A file that changes between hashing and reading never gives a number under the old key."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.data import digests
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary

WORDS = Vocabulary("three", (("a",), ("b",), ("c",)))


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digests, "SETTLED_NS", 0)  # remember at once what was hashed
    draw = np.random.default_rng(0)
    write(tmp_path / "images/a.png", draw.integers(0, 256, (8, 8, 3), np.uint8))
    write(tmp_path / "masks/a.png", draw.integers(0, 3, (8, 8)).astype(np.uint8))
    return tmp_path


def folder(root: Path) -> Folder:
    return Folder("race", root, "images", "masks", WORDS, image_suffix=".png")


@pytest.mark.parametrize("what", ["images/a.png", "masks/a.png"])
@pytest.mark.parametrize("attempt", range(25))
def test_changed_after_hashing_and_restored(root: Path, what: str, attempt: int) -> None:
    """With the size and the times of the file set back, as rsync and tar do."""
    path = root / what
    original, times = path.read_bytes(), path.stat()
    data = folder(root)
    key, sample = data.key, data[0]
    assert folder(root).key == key  # from the cache
    changed = root / "changed.png"
    draw = np.random.default_rng(attempt + 1)
    shape, top = ((8, 8, 3), 256) if "images" in what else ((8, 8), 3)
    write(changed, draw.integers(0, top, shape).astype(np.uint8))
    content = changed.read_bytes()
    changed.unlink()
    content += b"\0" * max(0, len(original) - len(content))
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(LabError, match=rf"{what}: the file has changed since it was hashed"):
        data[0]
    assert folder(root).key != key  # a new start hashes what is there now
    path.write_bytes(original)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    restored = folder(root)
    assert restored.key == key
    for one in (data[0], restored[0]):
        np.testing.assert_array_equal(one.mask, sample.mask)
        np.testing.assert_array_equal(one.image, sample.image)
