"""Protocol: every choice that changes a number without changing the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import (
    Kind,
    named_steps,
    readout_function,
    readout_of_others,
    refines_labels,
    refines_logits,
    threshold_function,
    written_out,
)
from sclip_lab.core.identity import described, digest, plain
from sclip_lab.core.values import check_arguments, within
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.position_embedding import RULES
from sclip_lab.segmentation import views

LONGEST_SIDE = 100_000  # pixels
# The kinds of functions that a protocol may name.
READOUTS = (readout_function, readout_of_others)
REFINEMENTS = (refines_logits, refines_labels)
# The readout of protocols that do not name one.
COSINE = {"_target_": "sclip_lab.segmentation.readouts.cosine.cosine"}
# The fields that decide, with the views, which windows of a photo the network sees, and how.
GEOMETRY = (
    *("short_side", "long_side", "crop_size", "stride", "padding", "resampling"),
    *("whole_patches", "centre_crop", "position_embedding"),
)


@dataclass(frozen=True)
class Protocol:
    """How a photo becomes a prediction.

    Attributes:
        name: for tables; not part of the identity.
        short_side: pixels of the shorter side that photos are resized to, aspect kept; None leaves
            them.
        long_side: upper bound on the longer side after resizing; unused without ``short_side``.
        crop_size: side of the sliding window in pixels; None: the whole image at once.
        stride: pixels from the start of one window to the start of the next.
        views: changed copies of every window, see `sclip_lab.segmentation.views`; None for the
            photo alone.
        templates: prompts with one ``{}`` for the class name, or the name of a set of prompts, see
            `sclip_lab.segmentation.prompts.templates`.
        vocabulary: a vocabulary instead of the data set's own (same classes, other names).
        auxiliary: names that no pixel is labelled with, for methods that compare with such names: a
            list of names, or the name of a vocabulary; None for none.
        second_templates: prompts for texts that a readout compares with something other than
            patches, such as FreeCP's crops; None: ``templates``.
        truncate: cut texts that are longer than the text tower reads, instead of refusing them.
        logit_scale: factor on cosine similarities before the softmax.
        prob_threshold: pixels whose largest class probability is below it become background; a
            number, or a function of `sclip_lab.segmentation.thresholds` that finds one per photo.
        area_threshold: foreground classes that cover at most this share of the predicted foreground
            are dropped.
        background: the class that pixels below ``prob_threshold`` become; it is no foreground.
        padding: ``centre`` pads windows with zeros (the mean colour) on both sides to whole
            patches, the odd pixel at the bottom and right; a number pads to a multiple of so many
            pixels; None leaves incomplete patches to the backbone, which usually drops them.
        resampling: ``bilinear`` (cv2's, without smoothing), or ``bicubic`` (PIL's, which smooths
            when it shrinks).
        whole_patches: resized sides are rounded to whole patches.
        centre_crop: side in pixels of the middle square to which photo and mask are cut, see
            `sclip_lab.segmentation.photos.centre`; None for the whole photo.
        position_embedding: rule for grids of another size; None: the backbone's.
        readout: a function of `sclip_lab.segmentation.readouts` under ``_target_``, with its
            parameters, or a function or partial of one's own; None for cosines.
        refinement: likewise a function of `sclip_lab.segmentation.refinements`, or several in
            order, each under a name; None for none.
        key: digest of the settings, with defaults of the named functions. The order of refinements
            counts, their names do not.

    Raises:
        LabError: a value out of range, an unknown function or parameter (did you mean).
    """

    name: str = "custom"
    short_side: int | None = 336
    long_side: int = 2048
    crop_size: int | None = 224
    stride: int = 112
    views: Mapping[str, Any] | None = None
    templates: str | tuple[str, ...] = "openai_imagenet"
    vocabulary: str | None = None
    auxiliary: str | tuple[str, ...] | None = None
    second_templates: str | tuple[str, ...] | None = None
    truncate: bool = False
    logit_scale: float = 40.0
    prob_threshold: float | Mapping[str, Any] = 0.0
    area_threshold: float = 0.0
    background: int = 0
    padding: Literal["centre"] | int | None = None
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    whole_patches: bool = False
    centre_crop: int | None = None
    position_embedding: str | None = None
    readout: Any = None
    refinement: Any = None
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        # `views.checked` has better errors for views.
        flat = {name: value for name, value in values.items() if name != "views"}
        check_arguments(Protocol, flat, "protocol.")
        for key in ("prob_threshold", "area_threshold"):
            value = values[key]
            if not isinstance(value, Mapping):
                within(f"protocol.{key}", value, 0, 1, below=True)
        within("protocol.logit_scale", self.logit_scale, 0, 1e9, above=True)
        for key in ("short_side", "long_side", "crop_size", "stride", "padding", "centre_crop"):
            if isinstance(values[key], int):
                within(f"protocol.{key}", values[key], 1, LONGEST_SIDE)
        within("protocol.background", self.background, 0, 2**15 - 1)
        if self.position_embedding is not None and self.position_embedding not in RULES:
            raise unknown("protocol.position_embedding", self.position_embedding, RULES)
        if self.centre_crop is not None and self.centre_crop > (self.short_side or 0):
            raise LabError(
                f"protocol.centre_crop {self.centre_crop} must lie within short_side "
                f"{self.short_side}"
            )
        if self.auxiliary is not None and not isinstance(self.auxiliary, str):
            values["auxiliary"] = tuple(map(str, self.auxiliary))
        for key in ("templates", "second_templates"):
            prompts = values[key]
            if prompts is None or isinstance(prompts, str):
                continue
            if not prompts:
                raise LabError(f"protocol.{key} is empty; name a set, or at least one prompt")
            values[key] = tuple(prompts)
            for template in prompts:
                if template.count("{}") != 1:
                    raise LabError(f"protocol.{key}: '{template}' needs exactly one {{}}")
        readout = _function("readout", self.readout, *READOUTS)
        values["readout"] = None if readout == COSINE else readout
        values["refinement"] = _refinement(self.refinement)
        if isinstance(self.prob_threshold, Mapping):
            threshold = _function("prob_threshold", self.prob_threshold, threshold_function)
            values["prob_threshold"] = threshold
        values["views"] = views.checked(self.views)
        for name in ("logit_scale", "prob_threshold", "area_threshold"):
            if type(values[name]) is int:  # 40 and 40.0 are one value
                values[name] = float(values[name])
        for name, value in values.items():
            object.__setattr__(self, name, value)
        in_order = list(named_steps(self.refinement).values())
        object.__setattr__(self, "key", digest({**self.config, "refinement": in_order}))

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def config(self) -> dict[str, Any]:
        """Everything but the name, as plain values."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("name", "key")]
        return {name: plain(getattr(self, name)) for name in names}

    def auxiliary_vocabulary(self) -> Vocabulary | None:
        """The auxiliary names as one class, since a list may repeat a name; None for none.

        Raises:
            LabError: a vocabulary of that name does not exist (did you mean).
        """
        if self.auxiliary is None:
            return None
        words = self.auxiliary
        if isinstance(words, str):
            words = tuple(Vocabulary.named(words).queries)
        return Vocabulary("auxiliary", (words,))

    @property
    def geometry(self) -> str:
        """Digest of what decides which windows the network sees.

        Specs with equal geometry share a pass.
        """
        looks = [[view["change"], view["flip"]] for view in (self.views or {}).values()]
        return digest([looks, *(getattr(self, name) for name in GEOMETRY)])

    def resized(self, height: int, width: int, patch: int = 1) -> tuple[int, int]:
        """(height, width) of the photo in which windows are cut, rounded as mmcv does.

        With ``whole_patches`` sides are rounded to whole patches of ``patch`` pixels.
        """
        factor = 1.0
        if self.short_side is not None:
            short, long = sorted((height, width))
            factor = min(self.long_side / long, self.short_side / short)
        unit = patch if self.whole_patches else 1
        sides = [unit * int(side * factor / unit + 0.5) for side in (height, width)]
        return max(unit, sides[0]), max(unit, sides[1])


def _function(field: str, value: Any, *kinds: Kind) -> Any:
    """A function of a protocol as a yaml names it, with all its parameters; None for none."""
    try:
        return written_out(plain(described(value)) if value else None, *kinds)
    except LabError as error:
        raise LabError(f"protocol.{field}: {error}") from None


def _refinement(value: Any) -> dict[str, Any] | None:
    """One refinement, or several that each have a name, with all their parameters."""
    if not isinstance(value, Mapping) or not value or "_target_" in value:
        return _function("refinement", value, *REFINEMENTS)
    steps = named_steps(value)
    return {n: _function("refinement", step, *REFINEMENTS) for n, step in steps.items()} or None


def build(config: Mapping[str, Any]) -> Protocol:
    """A protocol from its yaml: fields of `Protocol`, and optionally ``expected``, see
    `sclip_lab.paper.published`.

    Raises:
        LabError: an unknown field (did you mean) or a value out of range.
    """
    config = {key: value for key, value in config.items() if key != "expected"}
    fields = [f.name for f in dataclasses.fields(Protocol) if f.init]
    for key in config:
        if key not in fields:
            raise unknown("protocol field", key, fields)
    return Protocol(**config)
