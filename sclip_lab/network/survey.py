"""Which networks of the installed open_clip and timm can be loaded, and what they are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import open_clip
import timm

from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.network import layouts, pretrained_tags, tower
from sclip_lab.network.planned import planned_clip, planning

# Parts of the names of timm's modules whose networks are built here; others are convolutional.
TRANSFORMERS = ("vit", "vision_transformer", "eva", "beit", "deit", "volo", "cait", "xcit")


@dataclass(frozen=True)
class Network:
    """What is known of one name of a library.

    Attributes:
        refusal: why it is not loaded; "" if it is.
        facts: what it is, by the columns of docs/networks.md; sides of a patch and of the trained
            images are in pixels, means of the published weights in 0 .. 255.
    """

    library: str
    name: str
    refusal: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def survey(family: str = "", progress: bool = False) -> Iterator[Network]:
    """Describe every name of both libraries that contains ``family`` ("" for all); capitals do not
    matter, and "-" equals "_". Networks are planned without memory for weights. ``progress`` shows
    a bar."""
    names = [(name, _of_open_clip) for name in open_clip.list_models()]
    names += [(name, _of_timm) for name in timm.list_models()]
    matching = [pair for pair in names if _plain(family) in _plain(pair[0])]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, describe in Bar(matching, "networks", leave=False, disable=not progress):
                yield describe(name)
    finally:
        logging.disable(before)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _of_open_clip(name: str) -> Network:
    config = open_clip.get_model_config(name)
    text = "transformers" if "hf_model_name" in config["text_cfg"] else "open_clip"
    tags = open_clip.list_pretrained_tags_by_model(name)
    notes = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    return _described("open_clip", name, lambda: planned_clip(config, None), text, notes)


def _of_timm(name: str) -> Network:
    module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    if not any(word in module for word in TRANSFORMERS):
        return Network("timm", name, f"is no plain vision transformer: timm keeps it in {module}")

    def build() -> Any:
        with planning():
            return timm.create_model(name, num_classes=0)

    note = timm.get_pretrained_cfg(name, allow_unregistered=True)
    notes = [] if note is None else [{"mean": note.mean, "std": note.std}]
    return _described("timm", name, build, "none", notes)


def _described(library: str, name: str, build: Any, text: str, notes: list[Any]) -> Network:
    try:
        image_tower = tower.find(name, build())
    except LabError as error:
        why = str(error).removeprefix("backbone ").removeprefix(f"{name}: ")
        return Network(library, name, why)
    # A library can fail in many ways on names that it lists itself.
    except Exception as error:
        why = (str(error).splitlines() or [""])[0]
        return Network(library, name, f"{library} cannot build it: {type(error).__name__} {why}")
    means = sorted({pretrained_tags.of_note(note)[0] for note in notes})
    facts = {
        "blocks": len(image_tower.blocks),
        "patch": image_tower.patch_size,
        "image": image_tower.image_size,
        "class token": "yes" if image_tower.has_class_token else "no",
        "registers": image_tower.prefix - image_tower.has_class_token,
        "text": text,
        "activation": layouts.activation(image_tower.blocks[0].activation),
        "channel means": " or ".join(" ".join(f"{v:.1f}" for v in mean) for mean in means)
        or "none published",
    }
    return Network(library, name, "", facts)
