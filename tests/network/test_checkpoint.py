"""Checkpoints of strangers: tensors are read, nothing runs, and no size is believed."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network import torchscript
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.loading import load_backbone
from tests.conftest import ARCHITECTURE

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


class Images(nn.Module):
    """A CLIP as OpenAI published it: traced, in half precision, its sizes kept as buffers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, size in {
            "input_resolution": 64,
            "context_length": 77,
            "vocab_size": 49408,
        }.items():
            self.register_buffer(name, torch.tensor(size))
        self.plain_mask = torch.full((77, 77), -torch.inf)

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images) * self.logit_scale.exp()


@pytest.fixture(scope="module")
def archive(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genuine TorchScript archive of the toy CLIP."""
    path = tmp_path_factory.mktemp("openai") / "ViT-T-16.pt"
    model = Images(copy.deepcopy(backbone.model).half())
    images = torch.zeros(1, 3, 64, 64, dtype=torch.half)
    torch.jit.trace(model, images, check_trace=False).save(str(path))
    return path


def test_the_digests_are_openais() -> None:
    # The sha256 of ViT-B/16, as OpenAI's own code lists it.
    digest = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    assert digest in torchscript.openai_digests()
    assert len(torchscript.openai_digests()) == 9


def test_openais_archive_is_read(
    archive: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchscript, "openai_digests", lambda: frozenset({digest}))
    official = torch.jit.load(str(archive), "cpu").state_dict()
    loaded = read_checkpoint(archive)
    assert loaded.keys() == official.keys()
    for name, weight in official.items():
        assert loaded[name].dtype == weight.dtype
        assert torch.equal(loaded[name], weight), name
    loaded = load_backbone(checkpoint=archive, architecture=ARCHITECTURE, device="cpu")
    rounded = {name: weight.half().float() for name, weight in backbone.model.state_dict().items()}
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, rounded[name]), name


def test_a_strangers_archive_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", None)
    with pytest.raises(LabError, match=r"not one of those that OpenAI published.*torch\.jit\.load"):
        read_checkpoint(archive)


class Writes(nn.Module):
    """Its ``__setstate__`` writes a file when `torch.jit.load` reads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.path, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, weight, self.training = state
        self.weight = weight
        torch.save(weight, self.path)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_code_of_an_archive_is_not_run(tmp_path: Path) -> None:
    path, written = tmp_path / "evil.pt", tmp_path / "written"
    torch.jit.script(Writes(str(written))).save(str(path))
    with pytest.raises(LabError, match=r"evil\.pt is a TorchScript archive") as error:
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")
    assert "torch.jit.load" in str(error.value)  # how to convert it
    assert not written.exists()
    torch.jit.load(str(path))
    assert written.exists()  # the attack is a real one


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_a_zip_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/data.pkl", bytes(80 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(LabError, match=r"bomb\.pt cannot be read: its entries unpack to 83886080"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_an_entry_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/data.pkl", b"")
    with pytest.raises(LabError, match="twice"):
        read_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_plain_pickle_with_code(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    content = {"w": torch.ones(2), "x": Payload(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(LabError, match=r"plain\.pt cannot be read: it holds a Python object") as e:
        read_checkpoint(path)
    assert "weights_only=False" not in str(e.value)
    assert not (tmp_path / "ran").exists()


def test_numpy_objects_are_no_checkpoint(tmp_path: Path) -> None:
    path, stream = tmp_path / "objects.pt", io.BytesIO()
    np.save(stream, np.array([Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    path.write_bytes(stream.getvalue())
    with pytest.raises(LabError, match=r"objects\.pt cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_safetensors_header_longer_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(LabError, match=r"long\.safetensors cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["large.safetensors", "large.pt"])
def test_a_file_of_a_terabyte(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    os.truncate(path, 1 << 40)  # sparse: takes no room
    with pytest.raises(LabError, match=rf"{name} has 1099511627776 bytes, more than"):
        read_checkpoint(path)


@pytest.mark.parametrize("odd", [torch.ones(3).to_sparse(), torch.empty(3, device="meta")])
def test_tensors_without_numbers(odd: Tensor, tmp_path: Path) -> None:
    torch.save({"w": odd}, tmp_path / "odd.pt")
    with pytest.raises(LabError, match="weight w is no plain tensor"):
        read_checkpoint(tmp_path / "odd.pt")


def test_an_architecture_whose_tokenizer_brings_code() -> None:
    text = {"hf_tokenizer_name": "stranger/model", "tokenizer_kwargs": {"trust_remote_code": True}}
    architecture = {**ARCHITECTURE, "text_cfg": {**ARCHITECTURE["text_cfg"], **text}}
    with pytest.raises(LabError, match="trust_remote_code"):
        load_backbone(architecture=architecture, device="cpu")


@pytest.mark.parametrize("key", ["pretrained", "checkpoint", "architecture"])
def test_a_name_that_is_too_long_for_a_file(key: str) -> None:
    architecture = {"name": "ViT-B-32", "device": "cpu", key: "x" * 3000}
    with pytest.raises(LabError, match=f"{key}|xxx"):
        load_backbone(**architecture)  # type: ignore[arg-type]
