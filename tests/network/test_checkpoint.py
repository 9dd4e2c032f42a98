"""Checkpoints of strangers: tensors are read, nothing runs, and no size is believed."""

from __future__ import annotations

import copy
import io
import os
import pickle
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
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.kept import stamp
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


def test_openais_archive_is_read_without_running_it(
    archive: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = torch.jit.load(str(archive), "cpu").state_dict()
    monkeypatch.setattr(torch.jit, "load", None)
    read = read_checkpoint(archive)
    assert read.keys() == official.keys()
    for name, weight in official.items():
        assert read[name].dtype == weight.dtype
        assert torch.equal(read[name], weight), name
    loaded = load_backbone(checkpoint=archive, architecture=ARCHITECTURE, device="cpu")
    rounded = {name: weight.half().float() for name, weight in backbone.model.state_dict().items()}
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, rounded[name]), name


def test_attributes_of_every_kind_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "kinds.pt"
    torch.jit.script(Kinds()).save(str(path))
    read = read_checkpoint(path)
    official = torch.jit.load(str(path), "cpu").state_dict()
    assert read.keys() == official.keys() == {"turned", "mean", "inner.0.weight", "inner.0.bias"}
    assert all(torch.equal(read[name], official[name]) for name in official)


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
        self.register_buffer("mean", torch.tensor([1, 2, 3], dtype=torch.int16))
        self.inner = nn.Sequential(nn.Linear(2, 3))
        self.numbers = [1, 2]
        self.tensors = [torch.ones(2)]
        self.named = {"a": 1.0}
        self.text = "text"
        self.device = torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return x * len(self.numbers)


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
    with pytest.raises(LabError, match=r"evil\.pt is a TorchScript archive.*__setstate__") as error:
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")
    assert "torch.jit.load" in str(error.value)  # how to convert it
    assert not written.exists()
    torch.jit.load(str(path))
    assert written.exists()  # the attack is a real one


def rewritten(archive: Path, target: Path, change: dict[str, bytes]) -> Path:
    """The archive with other content of some entries, by their names below its root."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for entry in old.infolist():
            content = change.pop(entry.filename.removeprefix(f"{root}/"), None)
            new.writestr(entry, old.read(entry) if content is None else content)
    assert not change
    return target


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_code_inside_an_archive(protocol: int, archive: Path, tmp_path: Path) -> None:
    harm = pickle.dumps(Payload(tmp_path / "ran"), protocol)
    path = rewritten(archive, tmp_path / "harm.pt", {"data.pkl": harm})
    with pytest.raises(LabError, match=r"harm\.pt is a TorchScript archive"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (b"\x80\x02c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "has no end"),
        (b"\x80\x02" + b"(" * 1000 + b".", "wrong place"),
        (b"\x80\x02N.", "wrong place"),
        (b"\x80\x02t.", ""),
        (b"\x80\x02h\x05.", ""),
        (b"\x80\x02}" + b")" * 20 + b"\x85" * 2000 + b"Nsb.", "wrong place"),
        (b"\x80\x02c__torch__\nA\n)\x81X\x01\x00\x00\x00ab.", "__setstate__"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "__setstate__"),
        (b"\x80\x02" + b"]" * (5 << 20), "declares"),
        (b"\x80\x02c__torch__\nA\n)\x81", "exhausted"),
        (b"", ""),
    ],
    ids=range(11),
)
def test_pickles_made_by_hand(pickled: bytes, says: str, archive: Path, tmp_path: Path) -> None:
    path = rewritten(archive, tmp_path / "hand.pt", {"data.pkl": pickled})
    with pytest.raises(LabError, match=rf"hand\.pt is a TorchScript archive(?s:.*){says}"):
        read_checkpoint(path)


def archived(path: Path, shape: tuple, stride: tuple, numel: int, data: bytes, **zip: Any) -> Path:
    """An archive of one float tensor of that description."""

    def integers(values: tuple) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += b"J" + struct.pack("<i", numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + integers(shape)
    tensor += integers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    tree = b"\x80\x02c__torch__\nA\n)\x81}X\x01\x00\x00\x00w" + tensor + b"sb."
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", tree)
        made.writestr("a/constants.pkl", b"\x80\x02).")
        made.writestr("a/data/0", data, **zip)
    return path


def test_sizes_are_not_believed(tmp_path: Path) -> None:
    four = np.arange(4, dtype=np.float32)
    sound = archived(tmp_path / "0.pt", (2, 2), (2, 1), 4, four.tobytes())
    assert torch.equal(read_checkpoint(sound)["w"], torch.from_numpy(four.reshape(2, 2)))
    huge = 1 << 30
    for path in (
        archived(tmp_path / "1.pt", (2, 2), (2, 1), huge, four.tobytes()),  # a large storage
        archived(tmp_path / "2.pt", (huge, huge), (0, 0), 4, four.tobytes()),  # one number, often
        archived(tmp_path / "3.pt", (2, 2), (3, 1), 4, four.tobytes()),  # beyond the end
        archived(tmp_path / "4.pt", (2, 2), (-1, 1), 4, four.tobytes()),  # before the start
        archived(
            tmp_path / "5.pt",
            (1,),
            (1,),
            1 << 20,
            bytes(4 << 20),
            compress_type=zipfile.ZIP_DEFLATED,
        ),
    ):
        with pytest.raises(LabError, match=rf"{path.name} is a TorchScript archive"):
            read_checkpoint(path)


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


def test_entries_outside_of_the_archive_are_not_written(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "below" / "path.pt"
    path.parent.mkdir()
    rewritten(archive, path, {})
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("../escaped", b"x")
        more.writestr("/tmp/escaped-of-sclip-lab", b"x")
    assert read_checkpoint(path).keys() == read_checkpoint(archive).keys()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["path.pt"]
    assert not Path("/tmp/escaped-of-sclip-lab").exists()


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
    given = {**ARCHITECTURE, "text_cfg": {**ARCHITECTURE["text_cfg"], **text}}
    with pytest.raises(LabError, match="trust_remote_code"):
        load_backbone(architecture=given, device="cpu")


@pytest.mark.parametrize("key", ["pretrained", "checkpoint", "architecture"])
def test_a_name_that_is_too_long_for_a_file(key: str) -> None:
    given = {"name": "ViT-B-32", "device": "cpu", key: "x" * 3000}
    stamp(given)  # raises nothing
    with pytest.raises(LabError, match=f"{key}|xxx"):
        load_backbone(**given)  # type: ignore[arg-type]


def test_a_checkpoint_that_is_too_large_is_not_hashed(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    path.touch()
    os.truncate(path, 1 << 40)
    assert stamp({"name": "ViT-B-32", "checkpoint": str(path)}) is None
