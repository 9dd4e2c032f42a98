"""Checkpoints and learned projections as strangers may make them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

import sclip_lab as lab
from sclip_lab.attention.projected import BELONGS, load_projection
from sclip_lab.core import files
from sclip_lab.network.checkpoint import read_checkpoint
from tests.hostile.outcome import EVIL, changed, ends_well, examples

WEIGHTS = {n: t.detach().clone() for n, t in torch.nn.Linear(3, 2).state_dict().items()}
OLD = {"_use_new_zipfile_serialization": False}


def saved(content: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


def traced() -> bytes:
    sink = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)), sink)
    return sink.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return (open, (EVIL, "w"))


def header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def archive(*names: str, content: bytes = b"\x80\x02]q\x00.") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def hostile() -> Iterator[tuple[str, bytes]]:
    """Ending and content of files that nobody should read as weights."""
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for content in (
        b"", b"{}", bytes(8), struct.pack("<Q", 2**63), struct.pack("<Q", 2**40) + b"{}",
        header({"a": {**one, "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"a": {**one, "shape": [-1]}}), header({"a": {**one, "dtype": "X9"}}),
        header({"a": {**one, "data_offsets": [4, 0]}}), header({"a": 5}), header([1]),
        header({"__metadata__": {"a": 1}}), struct.pack("<Q", 6000) + b"[" * 6000,
    ):  # fmt: skip
        yield ".safetensors", content
    odd: list[Any] = [
        {**WEIGHTS, "weight": torch.full((2, 3), float("nan"))}, {"weight": 5},
        {5: WEIGHTS["bias"]}, {"state_dict": None}, {"state_dict": []}, {}, [], None, "text",
        {"weight": WEIGHTS["weight"].to_sparse()}, {"weight": torch.zeros(0)},
        {"weight": torch.zeros(2, 3, dtype=torch.complex64)},
        {"weight": torch.zeros(1).expand(2**40)}, {"weight": torch.zeros(2, device="meta")},
        {"a" * 100_000: WEIGHTS["bias"]}, {"<script>\n": WEIGHTS["bias"]},
        {"weight": np.zeros(3)}, {"weight": np.array([object()])}, Evil(), {"weight": Evil()},
    ]  # fmt: skip
    for content in (saved(value, **form) for value in odd for form in ({}, OLD)):
        yield ".pt", content
    for content in (
        pickle.dumps(WEIGHTS), pickle.dumps(Evil()), b"\x80\x02" + b"(" * 100_000, b"", traced(),
        archive("a/data.pkl", content=bytes(300 << 20)), archive(), archive("a/constants.pkl"),
        archive("a/data.pkl"), archive("../../x"), archive("a/data.pkl", "a/data.pkl"),
    ):  # fmt: skip
        yield ".pt", content


SOUND = [(".safetensors", save(WEIGHTS)), (".pt", saved(WEIGHTS)), (".pt", saved(WEIGHTS, **OLD)),
         (".pt", saved({"state_dict": WEIGHTS, "epoch": 3}))]  # fmt: skip


def read(ending: str, content: bytes) -> None:
    path = Path(f"case{ending}")
    path.write_bytes(content)

    def run() -> None:
        for name, tensor in read_checkpoint(path).items():
            assert isinstance(name, str)
            assert isinstance(tensor, torch.Tensor)
            if not tensor.is_complex():
                tensor.float().sum()

    ends_well(run, path.name)


@pytest.mark.filterwarnings("ignore")
def test_hostile_checkpoints() -> None:
    for ending, content in hostile():
        read(ending, content)

        def load(ending: str = ending) -> None:
            lab.load_backbone("patchwork_vit", checkpoint=f"case{ending}")
            raise AssertionError("weights of another network fit")

        ends_well(load)


@given(data=st.data(), sound=st.sampled_from(SOUND))
@examples(60)
def test_changed_checkpoints(data: st.DataObject, sound: tuple[str, bytes]) -> None:
    read(sound[0], data.draw(changed(sound[1])))


@given(data=st.data())
@examples(60)
def test_changed_projections(data: st.DataObject) -> None:
    path, good = Path("projection.safetensors"), torch.eye(8)
    files.write_tensors(path, {"projection": good}, BELONGS, {"per_head": "True"})
    path.write_bytes(data.draw(changed(path.read_bytes())))

    def run() -> None:
        projection, _ = load_projection(str(path))
        assert torch.equal(projection, good)

    ends_well(run, path.name)
