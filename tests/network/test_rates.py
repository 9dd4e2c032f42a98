"""bf16_fast follows a measured gain, which is measured once and remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sclip_lab.network import precision, rates
from sclip_lab.network.loading import load_backbone
from tests.conftest import ARCHITECTURE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(rates.CACHE_VARIABLE, str(tmp_path))
    rates._gain.cache_clear()
    yield tmp_path / "bf16_gain.json"
    rates._gain.cache_clear()  # what tests pretend is no other test's


def test_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def rate(device: torch.device, dtype: torch.dtype) -> float:
        calls.append(dtype)
        return {torch.float32: 2.0, torch.bfloat16: 7.0}[dtype]

    monkeypatch.setattr(rates, "rate", rate)
    assert rates.bf16_gain(CPU) == 3.5
    [kind] = json.loads(cache.read_text())
    assert torch.__version__.partition("+")[0] in kind
    rates._gain.cache_clear()
    assert rates.bf16_gain(CPU) == 3.5  # from the file
    assert len(calls) == 2
    cache.write_text("[damaged")
    rates._gain.cache_clear()
    assert rates.bf16_gain(CPU) == 3.5
    assert len(calls) == 4


def test_a_rate_is_what_a_product_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SHAPES", ((64, 64, 64),))
    assert 1e6 < rates.rate(CPU, torch.float32) < 1e15


@pytest.mark.parametrize(("gain", "stored"), [(1.7, 2), (7.5, 0)])
def test_blocks_in_fp32(gain: float, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda device: gain)
    fast = load_backbone(architecture=ARCHITECTURE, seed=0, device="cpu", precision="bf16_fast")
    types = [block.dtype for block in fast.blocks]
    assert types == [torch.float32] * stored + [torch.bfloat16] * (fast.depth - stored)
    half = load_backbone(architecture=ARCHITECTURE, seed=0, device="cpu", precision="bf16")
    assert (fast.key == half.key) == (stored == 2)
