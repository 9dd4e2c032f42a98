"""What a measure is, and measuring: one number per window, or per layer and head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sclip_lab.core import identity
from sclip_lab.core.errors import LabError
from sclip_lab.core.shared import guard
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.diagnostics.observation import Observation

NONE = -1  # the layer and head of a number that belongs to none
ALWAYS = tuple(f"sclip_lab.diagnostics.{name}" for name in ("layers", "measure", "observation"))
OfLayer = Callable[[Layers, int, Observation], Tensor | None]
Part = Literal["attention", "similarity", "layers", "photo"]


@dataclass(frozen=True)
class Measure:
    """One number per window.

    Attributes:
        compute: from an observation, (batch,).
        says: what the number is.
        low, high: its range; None where there is no bound.
        needs: parts of the observation without which it has no meaning.
        better: whether a good variant has it "high" or "low"; "" where neither can be said, or
            where a map that is blind to content can have the ideal value too.
        outcome: whether it compares predictions with the masks, as the score does, so that a
            correlation with the score explains nothing.
        of_row_sum: whether it depends on the sum of a map's rows: maps whose rows have other sums,
            such as CSA's, which sum to 2, cannot be compared by it.
        source: paper, or "this laboratory".
        undefined: where it has no meaning, beside missing parts; "" where it always has one.
        control: name of the measure that says what this one would be by chance.
        is_control: whether it is a control of other measures.
        of_layer: the number in one layer, (batch,) or (batch, heads); None where the layer has no
            such number.
        layers: what `of_layer` reads: the ``tokens`` that enter the layer, its attention
            ``weights``, or what the ``variant`` makes of it.
        pool: for a measure of photos together: computes a number for each photo from all photos'
            features, (patches, dim), and labels, (patches,). `compute` then returns NaN.
    """

    compute: Callable[[Observation], Tensor]
    says: str
    low: float | None = 0.0
    high: float | None = 1.0
    needs: tuple[Part, ...] = ()
    better: Literal["high", "low", ""] = ""
    outcome: bool = False
    of_row_sum: bool = False
    source: str = "this laboratory"
    undefined: str = ""
    control: str | None = None
    is_control: bool = False
    of_layer: OfLayer | None = None
    layers: Literal["tokens", "weights", "variant"] = "variant"
    pool: Callable[[Sequence[Tensor], Sequence[Tensor]], list[float]] | None = None

    @property
    def code(self) -> str:
        """Digest of the code that computes the measure: its own functions, what they use, and the
        modules `ALWAYS`, which every measure uses. Words, range and direction do not count."""
        return _code(self.compute, self.of_layer, self.pool)

    def has_parts(self, observation: Observation) -> bool:
        """Whether the observation has all parts that the measure needs."""
        return all(getattr(observation, part) is not None for part in self.needs)


@cache
def _code(*functions: Callable[..., Any] | None) -> str:
    digests = [
        None if function is None else identity.of_function(function) for function in functions
    ]
    return identity.digest([digests, identity.of_modules(ALWAYS)])


class Value(NamedTuple):
    """A measured number of a layer (0-based block) and a head; either is -1 if it has none."""

    measure: str
    layer: int
    head: int
    value: float


@torch.inference_mode()
def compute(measure: Measure, observation: Observation) -> Tensor:
    """Compute a measure: (batch,) float32; NaN if the observation lacks a part that it needs."""
    if not measure.has_parts(observation):
        return observation.undefined
    return measure.compute(observation).float()


@torch.inference_mode()
def values(
    measures: Mapping[str, Measure],
    names: Iterable[str],
    observation: Observation,
    layers: bool = False,
) -> Iterator[Value]:
    """Mean of each measure over the windows in which it has a meaning.

    ``names`` says which of the measures are computed. ``layers`` adds values of every layer and
    head, where a measure has them.

    Raises:
        LabError: a value that is infinite, or NaN though the measure is always defined.
    """
    for name in names:
        measure = measures[name]
        of_user = not measure.compute.__module__.startswith(__name__.partition(".")[0] + ".")
        with guard(name, observation) if of_user else nullcontext():
            numbers = _numbers(name, measure, observation, layers)
        yield from numbers


def _numbers(name: str, measure: Measure, observation: Observation, layers: bool) -> list[Value]:
    """The photo's number, then with ``layers`` the numbers of every layer and head."""
    per_window = compute(measure, observation)
    _check(name, per_window, bool(measure.undefined) or not measure.has_parts(observation))
    numbers = [Value(name, NONE, NONE, float(per_window.nanmean()))]
    if not layers or observation.layers is None or measure.of_layer is None:
        return numbers
    for layer in range(observation.layers.depth):
        by_head = _of_layer(name, measure, observation, observation.layers, layer)
        numbers += [Value(name, layer, head, value) for head, value in by_head]
    # A variant without a number for any layer gets one NaN: it has been measured.
    return numbers if len(numbers) > 1 else [*numbers, Value(name, 0, NONE, math.nan)]


def _of_layer(
    name: str, measure: Measure, observation: Observation, layers: Layers, layer: int
) -> list[tuple[int, float]]:
    """(head, number) of a layer: first its own number with head -1, then the heads' numbers."""

    def measured() -> list[tuple[int, float]]:
        result = None if measure.of_layer is None else measure.of_layer(layers, layer, observation)
        if result is None:
            return []
        result = result.float()
        per_window = result if result.ndim == 1 else result.mean(-1)
        _check(f"{name} of layer {layer}", per_window, bool(measure.undefined))
        by_head = enumerate(result.nanmean(0).tolist()) if result.ndim == 2 else ()
        return [(NONE, float(per_window.nanmean())), *by_head]

    untouched = layer not in layers.rewritten
    shared = measure.layers == "tokens" or (measure.layers == "weights" and untouched)
    # What does not depend on the variant is measured once for all that share the layer.
    key = ("measure", name, observation.grid)
    return layers.entered(layer).once(key, measured) if shared else measured()


def _check(name: str, per_window: Tensor, may_be_undefined: bool) -> None:
    if per_window.isinf().any():
        raise LabError(f"measure '{name}' is infinite")
    if not may_be_undefined and per_window.isnan().any():
        raise LabError(f"measure '{name}' is NaN, although it is defined everywhere")
