"""Many variants, one pass: a prefix tree over blocks.

Variants that have rewritten nothing yet are one branch, and so are those whose rewritten blocks are
equal so far; every branch runs once. A variant's numbers are the same bits alone and in company:
no operation is fused across variants, and the trunk does not depend on who follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.timings import Timings
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput, Context, Feedback, State
from sclip_lab.network.scene import ALONE, Scene


def leaves(
    blocks: Sequence[Block],
    tokens: Tensor | BlockInput,
    grid: tuple[int, int],
    variants: Sequence[Variant],
    timings: Timings | None = None,
    history: tuple[BlockInput, ...] = (),
    feedback: Feedback | None = None,
    scene: Scene = ALONE,
) -> Iterator[tuple[int, State, tuple[BlockInput, ...]]]:
    """Run all variants on one batch; equal work is done once.

    Args:
        tokens: (batch, tokens, width), the embedded windows; or the input of a later block, with
            ``history``. A `BlockInput` also brings what was computed from it.
        timings: takes the seconds of each branch: ``trunk`` for blocks as trained, the variant's
            name for rewritten ones (shared work counts for the first variant).
        history: the inputs of blocks that have run already; no variant rewrites them.
        feedback: for the scores of every rewritten block.

    Yields:
        (index into ``variants``, state behind the last block, input of each block), one per
        variant, in the tree's order, without the tokens that a variant added: no readout or measure
        reads them. Only one branch is in memory if the caller drops each state in turn.
    """
    timings = timings or Timings()
    depth = len(blocks)

    def descend(
        entered: BlockInput, state: State, history: tuple[BlockInput, ...], members: list[int]
    ) -> Iterator[tuple[int, State, tuple[BlockInput, ...]]]:
        level = entered.block.index
        now = state.grid or grid
        context = Context(entered, history, now, feedback=feedback, scene=scene)
        # Variants with equal edits go on as one branch.
        groups: dict[str | None, list[int]] = {}
        for member in members:
            edit = variants[member].key_at(level, depth)
            groups.setdefault(edit, []).append(member)
        for edit, group in groups.items():
            with timings.measure("trunk" if edit is None else variants[group[0]].name):
                if edit is None:
                    after = replace(state, tokens=entered.as_trained())
                else:
                    after = variants[group[0]].apply(entered, state, context)
            passed = (*history, entered)
            if len(passed) < depth:
                following = BlockInput(blocks[len(passed)], after.tokens)
                yield from descend(following, after, passed, group)
            else:
                for member in group:
                    yield member, after, passed

    first = tokens if isinstance(tokens, BlockInput) else BlockInput(blocks[len(history)], tokens)
    entries: dict[str | None, list[int]] = {}
    for member, variant in enumerate(variants):
        entries.setdefault(variant.entry_key, []).append(member)
    for entry, members in entries.items():
        if entry is None:
            yield from descend(first, State(first.tokens), history, members)
            continue
        extended = variants[members[0]].enter(first.tokens, grid, first.block)
        start = BlockInput(first.block, extended)
        rows = slice(first.block.prefix + math.prod(grid))
        index = slice(None), rows
        for member, state, passed in descend(start, State(extended), history, members):
            yield member, part_of(state, index, (..., rows, rows)), parts_of(passed, index)
            del state, passed  # or they stay in memory while the next variant runs


def part_of(state: State, index: Any, index_of_map: Any) -> State:
    """A part of a state; its attention map has an index of its own."""
    dense, attention = state.dense, state.attention
    return replace(
        state,
        tokens=state.tokens[index],
        dense=None if dense is None else dense[index],
        attention=None if attention is None else attention[index_of_map],
    )


def parts_of(entered: Sequence[BlockInput], index: Any) -> tuple[BlockInput, ...]:
    """A part of the tokens that entered each block, taken when it is read."""

    def part(one: BlockInput) -> BlockInput:
        return BlockInput(one.block, lambda: one.tokens[index])

    return tuple(map(part, entered))


def cost(depth: int, variants: Sequence[Variant]) -> tuple[int, int]:
    """(blocks that the tree runs, blocks that separate runs take) for a set of variants."""
    paths = set()
    for variant in variants:
        path: tuple[str | None, ...] = (variant.entry_key,)
        for level in range(depth):
            path = (*path, variant.key_at(level, depth))
            paths.add(path)
    return len(paths), depth * len(variants)
