"""dataset.limit, sample, seed and split mean the same on every data set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Part, Sample, build, select
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from tests.data.originals import grid, photo, png

WORDS = Vocabulary("three", (("a",), ("b",), ("c",)))


class Bare(Dataset):
    """A data set of a plug-in, which takes none of the keys."""

    name, vocabulary = "bare", WORDS

    @property
    def names(self) -> list[str]:
        return [f"{index:02d}" for index in range(10)]

    def __getitem__(self, index: int) -> Sample:
        mask = np.full((4, 4), index % 3, np.uint8)
        return Sample(self.names[index], np.zeros((4, 4, 3), np.uint8), mask)

    @property
    def key(self) -> str:
        return "k"


def bare(name: str = "bare") -> Dataset:
    return Bare()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, stems in (("train", "abcdef"), ("val", "xyz")):
        for index, stem in enumerate(stems):
            photo(tmp_path / f"images/{split}/{stem}.jpg")
            png(tmp_path / f"masks/{split}/{stem}.png", grid([index % 3], 0))
    for split, stems in (("train", "abcdef"), ("val", "xyz")):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / f"lists/{split}.txt").write_text("\n".join(f"{split}/{s}" for s in stems))
    return tmp_path


def folder(root: Path, **settings: object) -> Folder:
    inputs = {"images": "images/{split}", "masks": "masks/{split}", **settings}
    return Folder("parts", root, vocabulary=WORDS, **inputs)  # type: ignore[arg-type]


def test_select() -> None:
    names = [f"{index:03d}" for index in range(100)]
    assert select(names, 3, None, 0) == names[:3]
    sampled = select(names, None, 10, 0)
    assert sampled == sorted(sampled)
    assert len(set(sampled)) == 10
    assert sampled == select(names, None, 10, 0) != select(names, None, 10, 1)
    assert set(select(names, 20, 10, 3)) <= set(names[:20])
    assert select(names, None, 1000, 0) == names
    # Every photo is drawn about equally often: 30 of 100 over 200 seeds, 60 +- 5 deviations.
    counts = np.zeros(100)
    for seed in range(200):
        counts[[int(name) for name in select(names, None, 30, seed)]] += 1
    assert np.abs(counts - 60).max() < 5 * np.sqrt(200 * 0.3 * 0.7)


def test_the_keys_on_patchwork() -> None:
    world = lab.load_dataset("patchwork", limit=20, sample=4, seed=2)
    assert len(world) == 4
    whole = lab.load_dataset("patchwork", limit=20)
    for index, name in enumerate(world.names):
        np.testing.assert_array_equal(world[index].mask, whole[whole.names.index(name)].mask)
    assert world.selection == "4 at random (seed 2) of the first 20"
    train = lab.load_dataset("patchwork", split="train", limit=2)
    assert (train.split, train.names) == ("train", ["train_000000", "train_000001"])
    with pytest.raises(LabError, match=r"unknown patchwork split 'tran'; did you mean train"):
        lab.load_dataset("patchwork", split="tran")


def test_the_keys_on_a_folder(root: Path) -> None:
    assert folder(root, split="train").names == list("abcdef")
    data = folder(root, split="val", limit=2)
    assert (data.names, data.split, data.selection) == (["x", "y"], "val", "first 2")
    assert len(folder(root, split="train", sample=3)) == 3
    assert folder(root, split="val", limit=99, sample=3).selection == ""  # all three
    with pytest.raises(LabError, match=r"unknown dataset.split 'vall'; did you mean val"):
        folder(root, split="vall")
    with pytest.raises(LabError, match=r"dataset.split is missing; there are train, val"):
        folder(root)
    with pytest.raises(LabError, match=r"'\.\./x' is not the name of a split"):
        folder(root, split="../x")
    flat = {"images": "images/train", "masks": "masks/train"}
    with pytest.raises(LabError, match=r"split is 'val', but none of images, masks and split_list"):
        folder(root, split="val", **flat)


def test_a_list_for_each_split(root: Path) -> None:
    whole = {"images": "images", "masks": "masks", "split_list": "lists/{split}.txt"}
    assert folder(root, split="val", **whole).names == ["val/x", "val/y", "val/z"]
    assert folder(root, split="train", limit=1, **whole).names == ["train/a"]
    with pytest.raises(LabError, match=r"unknown dataset.split 'test' \(known: train, val\)"):
        folder(root, split="test", **whole)


def test_the_keys_on_a_plug_in_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    lab.allow(__name__)
    target = {"_target_": f"{__name__}.bare", "name": "bare", "split": None, "seed": 0}
    assert len(build({**target, "limit": None, "sample": None})) == 10
    part = build({**target, "limit": 4, "sample": 2})
    assert len(part) == 2
    assert set(part.names) <= {"00", "01", "02", "03"}
    assert part[1].mask[0, 0] == int(part.names[1]) % 3
    keys = {build({**target, "limit": n}).key for n in (2, 3, 10)}
    assert len(keys) == 3
    assert "k" in keys
    with pytest.raises(LabError, match="has no splits"):
        build({**target, "split": "val"})
    with pytest.raises(LabError, match=r"dataset.limit: 'x' must be"):
        build({**target, "limit": "x"})


class Seeded(Bare):
    """A data set of a plug-in that has keys of these names, with defaults of its own."""

    def __init__(self, name: str, split: str = "dev", seed: int = 5) -> None:
        self.split, self.seed = split, seed


def test_a_plug_ins_own_defaults_stay() -> None:
    lab.allow(__name__)
    common = {"split": None, "limit": None, "sample": None, "seed": None}
    target = {"_target_": f"{__name__}.Seeded", "name": "seeded", **common}
    built = build(target)
    assert isinstance(built, Seeded)
    assert (built.split, built.seed) == ("dev", 5)
    part = build({**target, "split": "test", "seed": 1, "sample": 3})
    assert isinstance(part, Part)
    assert isinstance(part.whole, Seeded)
    assert (part.split, part.whole.seed, len(part)) == ("test", 1, 3)


def test_a_part_has_a_key_of_its_own_and_hashes_only_itself(root: Path) -> None:
    whole, part = folder(root, split="train"), folder(root, split="train", limit=2)
    assert whole.key != part.key
    (root / "masks/train/f.png").write_bytes(b"damaged")
    assert folder(root, split="train", limit=2).key == part.key
    assert hashlib.sha256(b"damaged").hexdigest() not in part.key
