"""Patch embeddings to a prediction: logits, synonyms and thresholds, in row bands.

The softmax runs over all queries, and a class has the largest probability among its synonyms. So a
pixel's class is that of its largest query logit, and its probability follows from that logit and
the sum of exponentials. Neither needs a [classes, queries, H, W] tensor, nor all rows at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import (
    OF_PHOTO,
    bind_config,
    kind_of,
    named_steps,
    refines_labels,
    refines_logits,
    threshold_function,
    used,
)
from sclip_lab.core.identity import digest
from sclip_lab.core.shapes import Winner
from sclip_lab.core.values import form
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.text import Text
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.protocol import READOUTS, REFINEMENTS, Protocol
from sclip_lab.segmentation.readouts.cosine import cosine
from sclip_lab.segmentation.windows import Plan

NOT_FINITE = "{} contain NaN or infinity; fp16 overflows where bf16 does not"
Bands = Iterator[tuple[slice, Tensor]]
# Factor on differences to the largest logit: 1e-35 still counts, and -inf is below 0 as well.
STEEP = 1e38


@dataclass(frozen=True)
class Steps:
    """The functions that a protocol names.

    Attributes:
        score: (encoded, text) -> patch logits; or (encoded, others) with a ``summary``.
        refinements: of logits in order, then those of labels.
        threshold: (encoded, text) -> the photo's own probability threshold; None: the protocol's.
        summary: what ``score`` reads of other photos, see `sclip_lab.core.functions.reads_others`;
            None if it reads texts.
    """

    score: Callable[..., Tensor]
    refinements: list[partial[Tensor]]
    threshold: Callable[..., float] | None = None
    summary: Callable[..., Any] | None = None

    @property
    def uses(self) -> frozenset[str]:
        """What the functions are marked to read, see `sclip_lab.core.functions.uses`."""
        functions = [self.score, *self.refinements, self.threshold]
        return used(function for function in functions if function is not None)

    @property
    def reads_text(self) -> bool:
        """Whether any of the functions is given the text embeddings."""
        return self.summary is None or self.threshold is not None or self._refinement_takes("text")

    @property
    def reads_windows(self) -> bool:
        """Whether a threshold or a refinement is given the photo's windows."""
        return self.threshold is not None or self._refinement_takes("encoded")

    @property
    def sees_photo(self) -> bool:
        """Whether ``score`` reads all windows of a photo together."""
        return "photo" in used([self.score])

    def _refinement_takes(self, name: str) -> bool:
        return any(name in inspect.signature(step.func).parameters for step in self.refinements)


def steps(protocol: Protocol) -> Steps:
    """A protocol's functions with their parameters."""
    score = bind_config(protocol.readout, *READOUTS) or cosine
    threshold = protocol.prob_threshold
    per_photo = threshold if isinstance(threshold, Mapping) else None
    configs = named_steps(protocol.refinement).values()
    refinements = [step for step in (bind_config(c, *REFINEMENTS) for c in configs) if step]
    refinements.sort(key=lambda step: kind_of(step) is refines_labels)
    return Steps(
        score,
        refinements,
        bind_config(per_photo, threshold_function),
        getattr(kind_of(score), "summary", None),
    )


@dataclass(frozen=True, eq=False)
class Readout:
    """One protocol with its text embeddings.

    Attributes:
        protocol: readout, scale, thresholds, refinement.
        text: (queries, embed_dim) float32, unit norm; None if the network has no text tower.
        query_classes: (queries,) class of each query.
        auxiliary: (words, embed_dim) of the protocol's auxiliary names, unit norm; None for none.
        second: (queries, embed_dim) of the second templates, unit norm; None for none.
    """

    protocol: Protocol
    text: Tensor | None
    query_classes: Tensor
    auxiliary: Tensor | None = None
    second: Tensor | None = None

    def __post_init__(self) -> None:
        if self.text is None:
            return
        if self.protocol.background >= self.num_classes:
            raise LabError(
                f"protocol.background {self.protocol.background} must be one of the classes "
                f"0 .. {self.num_classes - 1}"
            )
        _require_finite(self.text, "text embeddings")

    @cached_property
    def texts(self) -> Text | None:
        """The texts for variants that read texts; None if the network has no text tower."""
        return None if self.text is None else Text.of(self.text, self.auxiliary)

    @cached_property
    def num_classes(self) -> int:
        return int(self.query_classes.max()) + 1

    @cached_property
    def steps(self) -> Steps:
        """The functions that the protocol names."""
        return steps(self.protocol)

    @property
    def logits_key(self) -> tuple[Any, ...]:
        """Readouts with equal keys have the same patch logits on the same windows."""
        return id(self.text), id(self.second), digest(self.protocol.readout)

    def patch_logits(
        self, encoded: Encoded, others: Sequence[tuple[slice, Sequence[Any]]] | None = None
    ) -> Tensor:
        """(windows, grid_h, grid_w, queries) float32: cosines, or the protocol's own readout.

        ``others`` are for a readout with a ``summary``: the windows of each photo, and the
        summaries of all other photos. All synonyms then have the logit of their class.

        Raises:
            LabError: others or texts are missing, and the readout reads them.
        """
        device, score = encoded.state.tokens.device, self.steps.score
        if self.steps.summary is None:
            more: dict[str, Any] = {}
            if "second_text" in inspect.signature(getattr(score, "func", score)).parameters:
                more["second_text"] = None if self.second is None else self.second.to(device)
            text = self._text_on(device)
            return _checked(score(encoded, text, **more), encoded, len(text))
        if others is None:
            raise LabError(
                "protocol.readout learns classes from the masks of other photos: it needs a data "
                "set, see sclip_lab.evaluate"
            )
        parts = [score(encoded.part(part), of_others) for part, of_others in others]
        logits = _checked(torch.cat(parts), encoded, int(self.query_classes.max()) + 1)
        return logits[..., self.query_classes.to(device)]

    def _text_on(self, device: torch.device) -> Tensor:
        if self.text is None:
            raise LabError("this network has no text tower, and protocol.readout reads texts")
        return self.text.to(device)

    def predict(
        self,
        plan: Plan,
        laid_out: Tensor,
        image: Tensor | None = None,
        encoded: Encoded | None = None,
        backbone: Backbone | None = None,
    ) -> Tensor:
        """(height, width) labels at the photo's size: uint8 class ids, int16 beyond 256 classes.

        ``laid_out`` are patch logits from `Plan.lay_out`. Refinements may read ``image``, (3,
        *plan.resized) normalised, ``encoded``, the photo's windows, and ``backbone``, the network.

        Raises:
            LabError: logits that are not finite, or an input that a function reads is missing.
        """
        _require_finite(laid_out, "patch logits")
        text = None if self.text is None else self.text.to(laid_out.device)
        inputs: dict[str, Any] = {"encoded": encoded, "text": text, "backbone": backbone}
        if image is not None and self.steps.refinements:
            resized = F.interpolate(image[None].to(laid_out), size=plan.target, mode="bilinear")
            inputs["image"] = resized[0]
        whole = None
        for step in self.steps.refinements:
            if kind_of(step) is refines_logits:
                whole = _refined(step, plan.stitch(laid_out) if whole is None else whole, inputs)
                _require_finite(whole, "refined logits")

        def bands(queries: Tensor | None = None) -> Bands:
            if whole is None:
                yield from plan.bands(laid_out if queries is None else laid_out[queries])
                return
            chosen = whole if queries is None else whole[queries]
            for rows in plan.row_bands(len(chosen), chosen.device):
                yield rows, chosen[:, rows].clone()

        threshold = self._threshold(encoded)
        prediction = self._decide(bands, plan.target, laid_out.device, threshold)
        for step in self.steps.refinements:
            if kind_of(step) is refines_labels:
                prediction = _refined(step, prediction, inputs)
        return prediction

    def _threshold(self, encoded: Encoded | None) -> float:
        threshold = self.protocol.prob_threshold
        if not isinstance(threshold, Mapping):
            return threshold
        if encoded is None or self.steps.threshold is None:
            raise LabError("protocol.prob_threshold needs the photo's windows")
        return self.steps.threshold(encoded, self._text_on(encoded.state.tokens.device))

    def _decide(
        self,
        bands: Callable[..., Bands],
        size: tuple[int, int],
        device: torch.device,
        threshold: float,
    ) -> Tensor:
        protocol = self.protocol
        dtype = torch.uint8 if self.num_classes <= 256 else torch.int16
        classes = self.query_classes.to(device, dtype)
        prediction = torch.empty(size, dtype=dtype, device=device)
        # A probability threshold needs the log of the sum of exponentials of each pixel.
        best, normaliser = (torch.empty(size if threshold else 0, device=device) for _ in range(2))
        for rows, largest, query, below in _winners(bands()):
            prediction[rows] = _looked_up(classes, query)
            if threshold:
                best[rows] = largest
                total = below.mul_(protocol.logit_scale).exp_().sum(dim=0)
                normaliser[rows] = total.log_().add_(largest * protocol.logit_scale)
        if protocol.area_threshold:
            large_enough = self._large_enough(prediction)
            queries = large_enough[classes.int()].nonzero()[:, 0]
            if len(queries) < len(classes):
                for rows, largest, query, _ in _winners(bands(queries)):
                    prediction[rows] = _looked_up(classes[queries], query)
                    if threshold:
                        best[rows] = largest
        if threshold:
            probability = (best * protocol.logit_scale - normaliser).exp_()
            prediction[probability < threshold] = protocol.background
        return prediction

    def _large_enough(self, prediction: Tensor) -> Tensor:
        """(classes,) bool: background, and classes with more than ``area_threshold`` of the
        predicted foreground; all classes if there is no foreground."""
        area = torch.bincount(prediction.flatten().int(), minlength=self.num_classes)
        area[self.protocol.background] = 0  # shares are those of the foreground
        foreground = area.sum()
        if foreground == 0:
            return torch.ones_like(area, dtype=torch.bool)
        large_enough = area / foreground > self.protocol.area_threshold
        large_enough[self.protocol.background] = True
        return large_enough


def _checked(logits: Any, encoded: Encoded, columns: int) -> Tensor:
    """Return a readout's patch logits, or refuse another shape: a readout may be the user's."""
    shape = (len(encoded.state.tokens), *(encoded.state.grid or encoded.grid), columns)
    right_type = isinstance(logits, Tensor) and logits.dtype == torch.float32
    if not right_type or tuple(logits.shape) != shape:
        raise LabError(
            f"protocol.readout gave {form(logits)}; patch logits are a Tensor of float32, "
            f"(windows, grid_h, grid_w, texts or classes), here {shape}"
        )
    return logits


def _require_finite(values: Tensor, what: str) -> None:
    # The extremes are NaN if any value is; isfinite would copy maps of a photo's size.
    if values.numel() and not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise LabError(NOT_FINITE.format(what))


def winner(logits: Float[Tensor, "queries height width"], scratch: Tensor) -> Winner:
    """Largest value over the queries, the first query that has it, and how far all are below it.

    ``logits`` are float32 and finite; ``scratch`` has at least as many values, contiguous. Both are
    overwritten. The index is int32, and ``logits - largest`` lies in ``scratch``.
    """
    # torch.max with indices handles one value at a time on a CPU, amax eight or sixteen. So amax
    # finds the index too: each query gets a rank plus 0 for winners, far below 0 for all others.
    below = scratch.flatten()[: logits.numel()].view(logits.shape)
    largest = logits.amax(dim=0)
    torch.sub(logits, largest, out=below)
    rank = torch.arange(len(logits), 0, -1, dtype=logits.dtype, device=logits.device)
    torch.add(rank.view(-1, 1, 1), below, alpha=STEEP, out=logits)
    return largest, len(logits) - logits.amax(dim=0).int(), below


def _winners(bands: Bands) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, largest, query, below) of each band, see `winner`; the first band is the largest."""
    scratch = None
    for rows, logits in bands:
        scratch = torch.empty_like(logits) if scratch is None else scratch
        yield rows, *winner(logits, scratch)


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.flatten()).view(index.shape)


def _refined(step: partial[Tensor], values: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Apply a refinement to logits or labels; it gets the inputs that it names."""
    names = list(inspect.signature(step.func).parameters)
    arguments = {name: inputs.get(name) for name in names if name in OF_PHOTO}
    for name, value in arguments.items():
        if value is None:
            raise LabError(f"protocol.refinement needs the {name}")
    # The values go to the first argument that is not the name of an input.
    first = next(name for name in names if name not in OF_PHOTO)
    refined = step(**{first: values, **arguments})
    logits = values.is_floating_point()
    right_type = isinstance(refined, Tensor) and refined.dtype in (torch.float32, torch.float64)
    if (logits and not right_type) or getattr(refined, "shape", None) != values.shape:
        raise LabError(
            f"protocol.refinement gave {form(refined)}; it must return "
            f"{'logits of float32' if logits else 'labels'} of the shape {tuple(values.shape)}"
        )
    return refined
