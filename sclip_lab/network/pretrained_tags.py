"""What open_clip notes about published weights: channel statistics and activation.

Weights that are used with other statistics or another activation than they were trained with give
wrong numbers without any error, so both are taken from the notes and contradictions are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip

from sclip_lab.core.errors import LabError
from sclip_lab.core.values import check
from sclip_lab.network.architecture import read_architecture
from sclip_lab.network.backbone import MEAN, STD

log = logging.getLogger(__name__)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
WORDS = {True: "QuickGELU", False: "GELU"}


def check_activation(
    name: str, weights: str, trained: bool, computed: bool, requested: bool | None
) -> None:
    """Refuse weights that were trained with another activation than a network computes, unless the
    user requested one. Each activation is given as true for QuickGELU, false for GELU.

    Raises:
        LabError: naming both activations, the name that fits and the key that decides.
    """
    if requested is not None:
        if requested != trained:
            log.warning(
                "backbone %s: %s was trained with %s; quick_gelu=%s replaces it",
                *(name, weights, WORDS[trained], str(requested).lower()),
            )
        return
    if trained == computed:
        return
    fitting = name.removesuffix("-quickgelu") + ("-quickgelu" if trained else "")
    use = f"use backbone={fitting}, or " if fitting in open_clip.list_models() else ""
    raise LabError(
        f"backbone {name} computes {WORDS[computed]}, but {weights} was trained with "
        f"{WORDS[trained]}: {use}decide by backbone.quick_gelu={str(trained).lower()}"
    )


def read_notes(folder: Path) -> Mapping[str, Any]:
    """Read open_clip's notes beside weights, ``open_clip_config.json``. Empty if there are none.

    Raises:
        LabError: the file holds no JSON mapping of mappings.
    """
    path = folder / "open_clip_config.json"
    if not path.is_file():
        return {}
    notes = read_architecture(path)
    if not all(isinstance(notes.get(part, {}), dict) for part in ("model_cfg", "preprocess_cfg")):
        raise LabError(f"{path}: model_cfg and preprocess_cfg must be mappings")
    for key in ("mean", "std"):
        values = notes.get("preprocess_cfg", {}).get(key)
        check(f"{path}: preprocess_cfg.{key}", values, tuple[float, float, float] | None)
    return notes


@cache
def warn_of_activation(name: str, source: str) -> None:
    """Warn once that only the name says which activation a file's weights were trained with.

    Names that exist with one activation alone leave no doubt.
    """
    computes = computes_quick_gelu(name)
    other = name.removesuffix("-quickgelu") if computes else f"{name}-quickgelu"
    if other in open_clip.list_models() and other != name:
        log.warning(
            "backbone %s: computes %s as its name says, but %s does not say what it was trained "
            "with. If that was %s, use backbone=%s; backbone.quick_gelu=%s confirms the name",
            *(name, WORDS[computes], source, WORDS[not computes], other, str(computes).lower()),
        )


def computes_quick_gelu(name: str | None, architecture: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a network computes QuickGELU, from its description or its name. Without either,
    as with OpenAI's own files, it does."""
    if architecture is None and name is not None and ":" not in name:
        architecture = open_clip.get_model_config(name)
    return True if architecture is None else bool(architecture.get("quick_gelu", False))


def statistics(
    visual: Any, name: str, tag: str | None, from_file: bool, notes_of_file: Mapping[str, Any]
) -> Statistics:
    """Return the channel mean and standard deviation in 0 .. 255.

    For a tag or a model of a hub, those that open_clip notes. For other weights, those in the notes
    beside the file (from `read_notes`), then those on which all tags of the name agree, then a timm
    tower's own, then CLIP's. Tags that disagree are warned of if the weights are a user's own
    (``from_file``).
    """
    stated = notes_of_file.get("preprocess_cfg", {})
    if stated.get("mean") is not None and stated.get("std") is not None:
        notes = [stated]
    elif tag is not None:
        notes = [open_clip.get_pretrained_cfg(name, tag)]
    elif ":" in name:
        notes = [open_clip.get_model_preprocess_cfg(SimpleNamespace(visual=visual))]
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        notes = [open_clip.get_pretrained_cfg(name, each) for each in tags]
    if not notes and hasattr(visual, "trunk"):
        notes = [visual.trunk.pretrained_cfg]
    choices = {of_note(note) for note in notes}
    if len(choices) == 1:
        return choices.pop()
    if choices and from_file:
        warn_of_statistics(name, MEAN, choices)
    return MEAN, STD


def warn_of_statistics(
    name: str, used: Sequence[float], choices: Iterable[Statistics], role: str = "backbone"
) -> None:
    """Warn that a user's own weights do not say which channel statistics they were trained with."""
    means = sorted(mean for mean, _ in choices)
    shown = [str([round(value, 1) for value in mean]) for mean in (used, *means)]
    keys = "backbone.mean and backbone.std decide, or " if role == "backbone" else ""
    log.warning(
        "%s %s: its published weights have several channel statistics and a file does not say "
        "which; those with means %s are used. %sa tag in a name of timm decides; means in "
        "0 .. 255: %s",
        *(role, name, shown[0], keys, " | ".join(shown[1:])),
    )


def of_note(note: Mapping[str, Any]) -> Statistics:
    """Return the statistics in 0 .. 255 of a note with ``mean`` and ``std`` in 0 .. 1. CLIP's are
    rounded as in the field's evaluations."""

    def in_bytes(noted: Sequence[float], of_clip: tuple[float, ...]) -> tuple[float, ...]:
        scaled = tuple(255 * float(value) for value in noted)
        same = all(abs(a - b) < 1e-3 for a, b in zip(scaled, of_clip, strict=True))
        return of_clip if same else scaled

    return in_bytes(note["mean"], MEAN), in_bytes(note["std"], STD)
