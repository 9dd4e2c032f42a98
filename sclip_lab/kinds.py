"""What a function is for, said by a decorator where it is written.

A function of a yaml gets its first arguments by place, so their names are the author's choice:

===================== =============================== ============================================
undecorated           ``(ctx)``                       weights function, prior or repair
                      ``(ctx, weights)``              mix
                      ``(encoded, text)``             readout
                      ``(encoded, text)``             threshold of a photo's probabilities
                      ``(images)``                    change of a view
                      ``(tokens)``                    entry: tokens beside a variant's patches
                      ``(block, hidden, grid)``       hidden: an edit behind an MLP's activation
`block_edit`          ``(block, state, ctx)``         an attention that replaces the whole block
`prior_of_grid`       ``(grid)``                      prior of the grid alone, computed once a grid
`refines_logits`      ``(mask)``                      refinement of logits at the photo's size
`refines_labels`      ``(prediction)``                refinement of labels at the photo's size
===================== =============================== ============================================

A refinement may further ask for ``image``, ``text`` and ``encoded``, a block edit for ``repair``,
by name. What reads texts in a variant says so: `sclip_lab.call.uses`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__sclip_lab_kind__"


def kind_of(function: Callable[..., Any]) -> str | None:
    """The name of the decorator that a function, or the one it binds, was declared with."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, _ATTRIBUTE, None)


def _declare(function: F, kind: str) -> F:
    setattr(function, _ATTRIBUTE, kind)
    return function


def block_edit(function: F) -> F:
    """``(block, state, ctx, **parameters) -> state`` in place of a whole block."""
    return _declare(function, "block_edit")


def prior_of_grid(function: F) -> F:
    """``(grid, **parameters)`` -> a fixed (tokens, tokens) term on the scores."""
    return _declare(function, "prior_of_grid")


def refines_logits(function: F) -> F:
    """``(mask, **parameters)`` -> mask: (queries, height, width) logits."""
    return _declare(function, "refines_logits")


def refines_labels(function: F) -> F:
    """``(prediction, **parameters)`` -> prediction: (height, width) class ids."""
    return _declare(function, "refines_labels")
