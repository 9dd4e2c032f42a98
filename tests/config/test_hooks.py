"""The table of hooks in docs/extending.md against what each method declares or asks for."""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

import sclip_lab as lab
from sclip_lab import testing
from sclip_lab.attention.variant import COMMON
from sclip_lab.config.registry import load_group, load_protocol, names
from sclip_lab.core.functions import (
    bind_config,
    block_edit,
    kind_of,
    locate,
    named_steps,
    refines_logits,
    used,
)
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import Context
from sclip_lab.network.scene import Guidance, Placement, Scene
from sclip_lab.network.truth import PatchLabels
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.protocol import REFINEMENTS, Protocol

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
KINDS = {"variants": "attention", "readouts": "readout", "protocols": "protocol"}
# What a method's own code asks a context or an encoded photo for, and the hook that it is.
ASKED = {
    "history": "blocks before",
    "earlier": "blocks before",
    "after": "blocks before",
    "at": "blocks before",
    "finished": "the block's end with other weights",
    "text": "texts within a block",
    "photos": "all windows of a photo",
    "guidance": "a second network",
    "labels": "ground truth",
    "scene": "all windows of a photo",
    "whole_class_embedding": "the photo's class token",
    "again": "a second pass",
}
PARTS = {
    "prior": "term on scores",
    "mix": "other weights made of the function's",
    "repair": "tokens before attention",
    "entry": "tokens beside the patches",
    "hidden": "inside the MLP",
}
DATASET = "voc21"  # with background, where thresholds and decisions about it are
Found = dict[str, dict[str, set[str]]]  # by hook and kind


def said() -> Found:
    """Names of files by hook and kind, from the table's third column; patterns written out."""
    users: Found = {}
    table = PAGE.read_text(encoding="utf-8").split("| hook | where |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        hook, _, column = (cell.strip() for cell in row.strip("|").split(" | "))
        users[hook] = defaultdict(set)
        for part in column.split("; "):
            kind = part.split(" ")[0] if part.split(" ")[0] in KINDS else "variants"
            for pattern in re.findall(r"`([^`]+)`", part):
                fitting = {n for n in names(KINDS[kind]) if fnmatchcase(n, pattern)}
                assert fitting, f"{hook}: no {kind} are called {pattern}"
                users[hook][kind] |= fitting
    return users


@contextmanager
def spied(kind: type, caller: str) -> Iterator[set[str]]:
    """The attributes that code of these modules asks objects of a class for."""
    accesses: set[str] = set()
    usual = kind.__getattribute__

    def spying(self: Any, name: str) -> Any:
        if re.match(caller, sys._getframe(1).f_globals["__name__"]):
            accesses.add(name)
        return usual(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__getattribute__", spying)
        yield accesses


def seen(variant: lab.Variant) -> Encoded:
    """Two windows of one photo, with texts and a second network's features."""
    network = testing.small_backbone()
    features = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    place = Placement(slice(0, 2), ((0, 0), (0, 32)), (64, 96), network.patch_size)
    labels = PatchLabels.of(testing.patch_labels(network, testing._images(64, 64)))
    scene = Scene((place,), Guidance(lambda: features), labels)
    prepared = variant.given(testing._text(network))
    [(_, windows)] = encode(network, testing._images(64, 64), [prepared], scene=scene)
    return windows


def of_variants(users: Found) -> None:
    for name in names("attention"):
        if name == "csa_learned":  # like csa_random, with a file
            continue
        variant, hooks = lab.load_attention(name), set()
        function = locate(variant.config["_target_"])
        with spied(Context, r"sclip_lab\.attention\.(?!variant$)") as accesses:
            state = seen(variant).state
        hooks |= {ASKED[one] for one in accesses & set(ASKED)}
        hooks |= {"a whole block"} if kind_of(function) is block_edit else set()
        hooks |= {"many blocks"} if len(variant.layers(12)) > 1 else set()
        hooks |= {"a second stream"} if variant.config["stream"] == "parallel" else set()
        hooks |= {"patches on another grid"} if state.grid else set()
        for key, hook in PARTS.items():
            hooks |= {hook} if variant.config[key] != COMMON[key] else set()
        assert ("text" in variant.uses) == ("texts within a block" in hooks), name
        assert ("guidance" in variant.uses) == ("a second network" in hooks), name
        for hook in hooks:
            users[hook]["variants"].add(name)


# Values with which CLIPer looks at windows of its own, and FreeCP at crops of all classes.
BUSY = {"window": 32, "stride": 16, "redundancy": 0.0, "ambiguity": 0.0}


def of_readouts(users: Found) -> None:
    text = testing._text(testing.small_backbone()).targets
    photo = seen(lab.load_attention("vanilla"))
    for name in names("readout"):
        config = load_group("readout", name)
        if "_target_" not in config:  # cosine, and one that is of a data set
            continue
        function = locate(config["_target_"])
        if getattr(kind_of(function), "summary", None):
            users["masks of other photos"]["readouts"].add(name)
            continue
        config |= {key: value for key, value in BUSY.items() if key in config}
        readout = Readout(Protocol(readout=config), text, torch.arange(5), second=text)
        with (
            spied(Encoded, r"sclip_lab\.segmentation\.readouts") as accesses,
            spied(Backbone, r"sclip_lab\.segmentation\.") as of_network,
            torch.inference_mode(),
        ):
            readout.patch_logits(photo)
        hooks = {ASKED[one] for one in accesses & {"whole_class_embedding", "again", "scene"}}
        if "embed" in of_network and "whole_class_embedding" not in accesses:
            hooks.add("crops and windows of one's own")
        if "guidance" in used([function]):
            hooks.add("a second network")
        if "second_text" in inspect.signature(function).parameters:
            hooks.add("a second set of texts")
        for hook in hooks:
            users[hook]["readouts"].add(name)


def of_protocols(users: Found) -> None:
    for name in names("protocol"):
        protocol, hooks = load_protocol(name, DATASET), set()
        hooks |= {"words that label nothing"} if protocol.auxiliary else set()
        hooks |= {"changed copies of a window"} if protocol.views else set()
        has_threshold = isinstance(protocol.prob_threshold, dict)
        hooks |= {"a threshold that the photo finds"} if has_threshold else set()
        for step in named_steps(protocol.refinement).values():
            logits = kind_of(bind_config(step, *REFINEMENTS)) is refines_logits
            hooks.add("logits with photo and texts" if logits else "labels")
        for hook in hooks:
            users[hook]["protocols"].add(name)


def test_the_table_says_who_uses_each_hook() -> None:
    users: Found = defaultdict(lambda: defaultdict(set))
    of_variants(users)
    of_readouts(users)
    of_protocols(users)
    written = said()
    rest = written.pop("weights of chosen blocks")
    assert not rest, "all variants that are in no row of whole blocks"
    assert {h: dict(k) for h, k in written.items()} == {h: dict(k) for h, k in users.items()}
