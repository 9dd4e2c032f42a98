"""The prefix tree: sharing changes no bit, and saves what it says it saves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sclip_lab
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import load_attention, names
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.segmentation import tree

GRID = (6, 8)


def company() -> list[Variant]:
    """Variants that branch off at different depths, some equal, some sharing edits."""
    return [
        load_attention("vanilla"),
        load_attention("csa"),
        load_attention("csa_k", residual=False, mlp=False),
        load_attention("csa", layers="last 2"),
        load_attention("csa", layers=[0]),
        load_attention("csa", layers=[0, -1]),
        load_attention("early", source=1),
        load_attention("csa_v", stream="parallel", layers="last 3"),
        load_attention("csa_random", layers=[1, 3]),
        load_attention("csa", mix="middle", layers=[-1]),
        load_attention("local", class_token=False),
        load_attention("csa"),
    ]


def run(backbone: Backbone, images: Tensor, variants: list[Variant]) -> dict[int, Tensor]:
    with torch.inference_mode():
        tokens = backbone.embed(images)
        leaves = tree.leaves(backbone.blocks, tokens, GRID, variants)
        return {i: torch.cat([s.readout, s.tokens], dim=-1).clone() for i, s, _ in leaves}


@pytest.fixture(scope="module")
def alone(backbone: Backbone, images: Tensor) -> list[Tensor]:
    return [run(backbone, images, [variant])[0] for variant in company()]


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_same_bits_alone_and_in_company(
    order: str, alone: list[Tensor], backbone: Backbone, images: Tensor
) -> None:
    variants = company()
    indices = list(range(len(variants)))
    if order == "backward":
        indices.reverse()
    elif order == "shuffled":
        indices = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0)).tolist()
    together = run(backbone, images, [variants[i] for i in indices])
    assert sorted(together) == sorted(indices)
    for place, index in enumerate(indices):
        assert torch.equal(together[place], alone[index]), variants[index].name


def test_equals_the_network(backbone: Backbone, images: Tensor) -> None:
    tokens = backbone.embed(images)
    expected = tokens
    for block in backbone.blocks:
        expected = block.module(expected)
    [(_, state, _)] = tree.leaves(backbone.blocks, tokens, GRID, [load_attention("vanilla")])
    torch.testing.assert_close(state.tokens, expected, atol=1e-5, rtol=0)


def test_no_variants(backbone: Backbone, images: Tensor) -> None:
    assert run(backbone, images, []) == {}
    assert tree.cost(12, []) == (0, 0)


@pytest.mark.parametrize(
    ("variants", "runs"),
    [
        ([{}], 12),
        ([{}, {}], 12),  # equal variants are one
        ([{}, {"temperature": 2.0}], 13),  # the trunk of 11, and two last blocks
        ([{}, {"layers": "last 2"}], 14),  # they part before the last but one
        ([{"layers": [0]}, {"layers": [0, -1]}], 13),  # the first block is shared, rewritten
        ([{"layers": [0]}, {"layers": [-1]}], 24),  # nothing is shared
        ([{"temperature": float(t)} for t in range(1, 13)], 23),
    ],
)
def test_cost_by_hand(variants: list[dict], runs: int) -> None:
    built = [load_attention("csa", **overrides) for overrides in variants]
    assert tree.cost(12, built) == (runs, 12 * len(built))


def test_cost_is_what_runs(
    backbone: Backbone, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        Block, "mlp", lambda self, x: calls.append(self.index) or torch.zeros_like(x)
    )
    # Each block here runs its MLP once, plain or rewritten.
    variants = [v for v in company() if v.config["mlp"] and v.config["stream"] == "replace"]
    run(backbone, images, variants)
    assert len(calls) == tree.cost(backbone.depth, variants)[0]


def test_loop_tree_and_store_name_no_method() -> None:
    """What only one method needs stands in that method's files."""
    root = Path(sclip_lab.__file__).parent
    words = {"early", "local", "similarity", "vanilla", "guided", "surgery"}  # of everyday English
    words |= {"between", "blind", "composed", "entropy", "oracle", "set", "shuffled", "uniform"}
    mentioned = {re.split(r"_", name)[0] for name in names("attention")} - words
    mentioned |= {"freecp", "lposs", "radseg"}
    files = [path for path in (root / "evaluation").glob("*.py") if "learned" not in path.name]
    files += [root / "results" / "store" / "store.py"]
    files += [root / "segmentation" / f"{name}.py" for name in ("tree", "encoded", "pipeline")]
    for path in files:
        result = mentioned & set(re.findall(r"[a-z]+", path.read_text().lower()))
        assert not result, f"{path.name} names {', '.join(sorted(result))}"
