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
`reads_others`        ``(encoded, others)``           readout by the masks of other photos
`refines_logits`      ``(mask)``                      refinement of logits at the photo's size
`refines_labels`      ``(prediction)``                refinement of labels at the photo's size
===================== =============================== ============================================

A refinement may further ask for ``image``, ``text`` and ``encoded``, a block edit for ``repair``,
by name. What reads texts in a variant says so: `sclip_lab.core.call.uses`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__sclip_lab_kind__"
_SUMMARY = "__sclip_lab_summary__"


def kind_of(function: Callable[..., Any]) -> str | None:
    """The name of the decorator that a function, or the one it binds, was declared with."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, _ATTRIBUTE, None)


def summary_of(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """What a readout declared with `reads_others` wants to know of each photo; None for others."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, _SUMMARY, None)


def _declare(function: F, kind: str) -> F:
    setattr(function, _ATTRIBUTE, kind)
    return function


def block_edit(function: F) -> F:
    """``(block, state, ctx, **parameters) -> state`` in place of a whole block."""
    return _declare(function, "block_edit")


def prior_of_grid(function: F) -> F:
    """``(grid, **parameters)`` -> a fixed (tokens, tokens) term on the scores."""
    return _declare(function, "prior_of_grid")


def reads_others(summary: Callable[..., Any]) -> Callable[[F], F]:
    """``(encoded, others, **parameters)`` -> logits of classes, a readout of one photo's windows.

    Args:
        summary: ``(encoded, labels, classes)`` -> anything, of one photo: its windows, the class of
            each patch as (windows, grid_h, grid_w) int64, -1 where it is void, and how many classes
            there are. ``others`` are those of all other photos of the data set, in its order.
    """

    def mark(function: F) -> F:
        setattr(function, _SUMMARY, summary)
        return _declare(function, "reads_others")

    return mark


def refines_logits(function: F) -> F:
    """``(mask, **parameters)`` -> mask: (queries, height, width) logits."""
    return _declare(function, "refines_logits")


def refines_labels(function: F) -> F:
    """``(prediction, **parameters)`` -> prediction: (height, width) class ids."""
    return _declare(function, "refines_labels")
