"""Checkpoints and yaml files as strangers may make them."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save

import sclip_lab as lab
from benchmarks.torture.outcomes import BAD, Outcomes, mutated
from sclip_lab.config import folders
from sclip_lab.config.registry import conf_dir
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset
from sclip_lab.network.checkpoint import read_checkpoint


def checkpoints(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Weights of a small network in all three forms: hand-made wrong ones, then changed ones."""
    model = torch.nn.Linear(3, 2)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    sound = [(".safetensors", save(weights)), (".pt", _saved(weights)),
             (".pt", _saved({"state_dict": weights, "epoch": 3})), (".pt", _traced(model)),
             (".pt", _saved(weights, _use_new_zipfile_serialization=False))]  # fmt: skip
    wrong = list(_hostile(weights))
    for number in range(cases):
        ending, content = generator.choice(sound)
        if number < len(wrong):
            ending, content = wrong[number]
        elif number >= len(wrong) + len(sound):
            content = mutated(content, generator)
        path = folder / f"case{number}{ending}"
        path.write_bytes(content)

        def run(path: Path = path) -> None:
            found = read_checkpoint(path)
            for name, tensor in found.items():
                assert isinstance(name, str), "a name that is no text"
                assert isinstance(tensor, torch.Tensor), "no tensor"
                if not tensor.is_complex():
                    tensor.float().sum()

        outcomes.case(f"checkpoint {path.name}", path.name, run)
        if number < len(wrong) + 20 or number % 20 == 0:
            outcomes.case(f"backbone {path.name}", "", lambda: _load(path))  # noqa: B023
        path.unlink()


def _load(path: Path) -> None:
    lab.load_backbone("patchwork_vit", checkpoint=str(path))
    raise AssertionError("weights of another network fit")


def _saved(content: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


def _traced(model: torch.nn.Module) -> bytes:
    sink = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3)), sink)
    return sink.getvalue()


class _Evil:
    def __reduce__(self) -> Any:
        return (open, ("evil", "w"))


def _hostile(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, bytes]]:
    yield from ((".safetensors", content) for content in (
        b"", b"{}", bytes(8), struct.pack("<Q", 2**63), struct.pack("<Q", 2**40) + b"{}",
        _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        _header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        _header({"a": 5}), _header([1]), _header({"__metadata__": {"a": 1}}),
        struct.pack("<Q", 6000) + b"[" * 6000,
    ))  # fmt: skip
    odd: Any
    for odd in (
        {**weights, "weight": torch.full((2, 3), float("nan"))}, {"weight": 5},
        {5: weights["bias"]},
        {"state_dict": None}, {"state_dict": []}, {}, [], None, "text",
        {"weight": weights["weight"].to_sparse()},
        {"weight": torch.zeros(0)}, {"weight": torch.zeros(2, 3, dtype=torch.complex64)},
        {"weight": torch.zeros(1).expand(2**40)}, {"weight": torch.zeros(2, device="meta")},
        {"a" * 100_000: weights["bias"]}, {"<script>\n": weights["bias"]},
        {"weight": np.zeros(3)}, {"weight": np.array([object()])}, _Evil(), {"weight": _Evil()},
    ):  # fmt: skip
        yield ".pt", _saved(odd)
        yield ".pt", _saved(odd, _use_new_zipfile_serialization=False)
    yield ".pt", pickle.dumps(weights)
    yield ".pt", pickle.dumps(_Evil())
    yield ".pt", b"\x80\x02" + b"(" * 100_000
    yield ".pt", b""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(300 << 20))
        archive.writestr("a/constants.pkl", b"")
    yield ".pt", whole.getvalue()
    for entries in (
        [],
        ["a/constants.pkl"],
        ["a/data.pkl"],
        ["../../x"],
        ["a/data.pkl", "a/data.pkl"],
    ):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            for name in entries:
                archive.writestr(zipfile.ZipInfo(name), b"\x80\x02]q\x00.")
        yield ".pt", whole.getvalue()


def _header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def yamls(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Files of every group in a folder of one's own: text changed, and values changed."""
    folders.add_folder(folder)
    groups = ("attention", "protocol", "dataset", "experiment", "backbone", "readout", "refinement")
    corpus = {group: sorted((conf_dir() / group).glob("[!_]*.yaml")) for group in groups}
    try:
        for number in range(cases):
            group = groups[number % len(groups)]
            content = generator.choice(corpus[group]).read_bytes()
            changed = _odd(content, generator) if number % 2 else mutated(content, generator)
            path = folder / group / f"case{number}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(changed)
            outcomes.case(f"yaml {group} {changed[-300:]!r}", "", lambda: _use(group, path.stem))  # noqa: B023
            path.unlink()
    finally:
        folders._added.remove(folder.resolve())


def _odd(content: bytes, generator: random.Random) -> bytes:
    """A sound file with one value replaced, or one that is none at all."""
    whole = generator.random() < 0.3
    odd = [b"", b"---", b"5", b"[1, 2]", b"null", b"a: &a [*a]", b"? [a, b]\n: c", b"{" * 3000,
    b"- " * 2000,
           b"\xff\xfe", b"a: !!python/object/apply:os.system [ls]", b"a: 1\na: 2", b"\x00",
           b"defaults: 5",
           b"defaults: [nothing]", b"defaults: [/attention: nothing]", b"a: " + b"9" * 5000,
           b"_target_: os.system",
           b"a: &a [x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n"
           b"d: &d [*c,*c,*c,*c,*c]\n"
           b"e: &e [*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f]",
           b"a: ${b}\nb: ${a}", b"a: ${oc.env:HOME}", b"a: ${now:%Y}", b"# @package nothing\na: 1",
           b"hydra: {run: {dir: /}}", b"a: 2001-99-99", b"<<: 5", b"a: !!binary x"]  # fmt: skip
    if whole:
        return generator.choice(odd)
    try:
        values = OmegaConf.to_container(OmegaConf.create(content.decode()))
    except Exception:
        return content
    assert isinstance(values, dict)
    key = generator.choice([k for k in values if k != "defaults"] or ["a"])
    values[key] = generator.choice([v for v in BAD if v != "\ud800"])
    try:
        return OmegaConf.to_yaml(OmegaConf.create(values)).encode()
    except Exception:
        return content + b"\n" + generator.choice(odd)


def _use(group: str, name: str) -> None:
    from sclip_lab.config.composing import sweep
    from sclip_lab.run.job import make_spec

    if group in ("experiment", "readout", "refinement", "backbone"):
        jobs = sweep([f"{group}={name}", "dataset.limit=1"])
        if len(jobs) > 3000:
            raise LabError("many jobs")
        if group != "backbone":
            make_spec(jobs[0])
        return
    loaders: dict[str, Any] = {
        "attention": lab.load_attention,
        "protocol": lab.load_protocol,
        "dataset": lab.load_dataset,
    }
    made = loaders[group](name)
    if isinstance(made, Dataset):
        len(made)
