"""Class lists, and values of protocols, variants and whole configurations that cannot be meant."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.config.folders import names
from sclip_lab.config.registry import load_attention, load_protocol
from sclip_lab.config.sweeper import sweep
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.run import job
from sclip_lab.segmentation.protocol import Protocol
from tests.hostile.outcome import BAD, ends_well, examples

SMALL = ["dataset.limit=1", "dataset.height=64", "dataset.width=96", "progress=false",
         "tracking=disabled", "pictures.images=0", "diagnostics=none"]  # fmt: skip
SECOND = ["guidance=dino_vitb16", "guidance.name=vit_tiny_patch16_224",
          "guidance.pretrained=false", "guidance.options={depth: 2}"]  # fmt: skip
STARTS = [
    [], ["attention=naclip", "protocol=naclip"], ["attention=resclip"], ["refinement=pamr"],
    ["protocol=unified", "attention=gem"], ["attention=scclip", "readout=maskclip"],
    ["attention=csa_random"], ["protocol=segearth"], ["readout=surgery", "attention=surgery"],
    ["attention=cliptrase", "readout=cliptrase"], ["attention=registers"],
    ["readout=lposs", *SECOND], ["attention=proxyclip", *SECOND],
]  # fmt: skip
TOO_DEEP: Any = "deep"
for _ in range(60):
    TOO_DEEP = [TOO_DEEP]
VALUES = [*BAD, TOO_DEEP, {"_target_": "sclip_lab.attention.nothing.at_all"}, "<b>", [0, 0], [1, 0],
          [-1, -1], [[1, 2], [3]], "$x$"]  # fmt: skip
LISTS = st.one_of(
    st.binary(max_size=80),
    st.lists(st.text(max_size=12), max_size=8).map(
        lambda lines: "\n".join(lines).encode("utf-8", "ignore")
    ),
    st.lists(
        st.sampled_from(["cat", "dog", "sky, blue", "\ufeffcat", "a\tb", "a\u2028b"]), max_size=5
    ).map(lambda lines: "\r\n".join(lines).encode()),
)


@given(content=LISTS)
@examples(50)
def test_class_lists(content: bytes) -> None:
    path = Path("names.txt")
    path.write_bytes(content)

    def run() -> None:
        vocabulary = Vocabulary.read(path)
        assert len(set(vocabulary.names)) == vocabulary.num_classes
        letters = set("".join(vocabulary.names))
        shown = {c for c in letters if c.isprintable() or unicodedata.category(c) == "Zs"}
        assert letters <= {*shown, "\u200c", "\u200d"}
        assert "\ufeff" not in "".join(vocabulary.queries)
        json.dumps(vocabulary.queries).encode()

    ends_well(run, path.name)


@cache
def sound_protocol() -> dict[str, Any]:
    protocol = load_protocol("sclip")
    return {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol) if f.init}


@given(
    data=st.data(),
    value=st.one_of(st.sampled_from(BAD), st.floats(), st.integers(), st.text(max_size=9)),
)
@examples(100)
def test_values_of_a_protocol(data: st.DataObject, value: Any) -> None:
    sound = sound_protocol()
    key = data.draw(st.sampled_from(sorted(sound)))

    def run() -> None:
        protocol = Protocol(**{**sound, key: value})
        json.dumps([getattr(protocol, name) for name in sound], allow_nan=False)
        assert isinstance(protocol.logit_scale, int | float)

    ends_well(run, key)


@cache
def sound_variants() -> dict[str, Any]:
    return {n: load_attention(n).config for n in names("attention") if n != "csa_learned"}


@given(data=st.data(), value=st.sampled_from(BAD))
@examples(10)
def test_values_of_a_variant(data: st.DataObject, value: Any) -> None:
    name = data.draw(st.sampled_from(sorted(sound_variants())))
    nested = ("_target_", "prior", "mix", "repair")
    keys = [key for key in sound_variants()[name] if key not in nested]
    key = data.draw(st.sampled_from(keys))
    run = lambda: json.dumps(dict(load_attention(name, **{key: value}).config), allow_nan=False)  # noqa: E731
    ends_well(run, key)


@cache
def sound_configuration(which: int) -> Any:
    return sweep([*STARTS[which], *SMALL])[0]


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration but those of Hydra's own section."""
    for key, value in node.items():
        if key != "hydra":
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")


@given(data=st.data(), which=st.integers(0, len(STARTS) - 1), value=st.sampled_from(VALUES))
@examples(10)
def test_values_of_a_configuration(data: st.DataObject, which: int, value: Any) -> None:
    config = sound_configuration(which).copy()
    key = data.draw(st.sampled_from(list(leaves(OmegaConf.to_container(config)))))
    try:
        with open_dict(config):
            OmegaConf.update(config, key, value, merge=False)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError):
        return  # Hydra's to refuse
    shown = next(iter(value.values()), value) if isinstance(value, dict) else value
    text = ascii(shown)[1:-1] if isinstance(shown, str) else repr(shown)
    ends_well(lambda: job.make_spec(config), key.rpartition(".")[2], text[:20])
