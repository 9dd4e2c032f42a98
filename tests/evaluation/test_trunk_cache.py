"""The trunk cache: the same bits with and without, bounded, and never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol

FIRST, SECOND = ("vanilla", "csa"), ("csa", "cliper", "maskclip", "naclip")


def rows(df: pd.DataFrame) -> pd.DataFrame:
    columns = ["attention", "image", "true", "predicted", "pixels"]
    return df[columns].astype({"attention": str, "image": str})


def test_a_second_sweep_skips_the_trunk_and_counts_the_same(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sweep(names: tuple[str, ...], store: str, gigabytes: float) -> pd.DataFrame:
        specs = [Spec(lab.load_attention(n), backbone, protocol, photos) for n in names]
        return rows(evaluate(specs, tmp_path / store, trunk_cache_gb=gigabytes, progress=False))

    plain = sweep(SECOND, "plain", 0)
    assert not (tmp_path / "plain/trunk").exists()
    sweep(FIRST, "cached", 1)
    assert len(list((tmp_path / "cached/trunk").iterdir())) == len(photos)
    ran: list[int] = []
    original = Block.plain

    def counted(self: Block, tokens: torch.Tensor) -> torch.Tensor:
        ran.append(self.index)
        return original(self, tokens)

    monkeypatch.setattr(Block, "plain", counted)
    sweep(("csa_mean",), "cached", 1)
    assert not ran
    # ``cliper`` looks at all earlier blocks, which are run for it.
    again = sweep(SECOND, "cached", 1)
    assert ran
    pd.testing.assert_frame_equal(plain, again)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    cache = TrunkCache(tmp_path, 1)
    tokens = torch.randn(6, 5, 8)
    assert cache.load("a") is None
    cache.save("a", tokens)
    loaded = cache.load("a")
    assert loaded is not None
    assert torch.equal(loaded, tokens)
    half = tokens.bfloat16()
    cache.save("b", half)
    loaded = cache.load("b")
    assert loaded is not None
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded, half)


@pytest.mark.parametrize("damage", ["cut off", "one bit", "not tensors"])
def test_a_damaged_file_is_not_used(damage: str, tmp_path: Path) -> None:
    cache = TrunkCache(tmp_path, 1)
    cache.save("a", torch.randn(6, 5, 8))
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        content = content[: len(content) // 2]
    elif damage == "one bit":
        content[-5] ^= 1
    else:
        content = bytearray(b"something else")
    path.write_bytes(content)
    assert cache.load("a") is None
    assert not path.exists()


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    tokens = torch.zeros(1, 100, 250)  # 100 kB
    cache = TrunkCache(tmp_path, 0.000_35)
    for age, key in enumerate("abc"):
        cache.save(key, tokens)
        os.utime(tmp_path / f"{key}.safetensors", (1000 + age, 1000 + age))
    assert cache.load("a") is not None  # used now
    cache.save("d", tokens)
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_a_sweep_that_does_not_fit_finds_what_was_kept_first(tmp_path: Path) -> None:
    tokens = torch.zeros(1, 100, 250)  # 100 kB
    cache = TrunkCache(tmp_path, 0.002_05)  # room for 20
    cache.save("before-1", tokens)
    loaded = []
    for _ in range(3):
        hits = 0
        for photo in range(24):
            if cache.load(f"sweep-{photo}") is None:
                cache.save(f"sweep-{photo}", tokens)
            else:
                hits += 1
        loaded.append(hits)
    assert loaded == [0, 20, 20]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.limit
    assert not (tmp_path / "before-1.safetensors").exists()


def test_a_cache_that_cannot_be_written_stops_nothing(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    (tmp_path / "trunk").write_text("not a folder")
    spec = Spec(lab.load_attention("csa"), backbone, protocol, photos)
    loaded = evaluate([spec], tmp_path, trunk_cache_gb=1, progress=False)
    assert loaded["image"].nunique() == len(photos)


def test_a_bound_is_above_zero(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="above 0"):
        TrunkCache(Store(tmp_path).root, -1)
