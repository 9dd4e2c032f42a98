"""Equal keys are equal numbers: what changes a cell's key, and what does not."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import sclip_lab
import sclip_lab as lab
from sclip_lab.core import identity
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.protocol import Protocol
from tests import photos as photo_files


@pytest.fixture
def spec(backbone: Backbone, photos: Folder, protocol: Protocol) -> Spec:
    return Spec(lab.load_attention("csa"), backbone, protocol, photos)


def changed(spec: Spec, **fields: object) -> Spec:
    return dataclasses.replace(spec, **fields)  # type: ignore[arg-type]


def test_the_same_content_has_the_same_key(spec: Spec) -> None:
    assert spec.key == changed(spec, attention=lab.load_attention("csa")).key
    assert len(spec.key) == 64


def test_equal_specs_are_one_in_a_set(spec: Spec) -> None:
    same = changed(spec, attention=lab.load_attention("csa"))
    other = changed(spec, attention=lab.load_attention("vanilla"))
    assert len({spec, same, other}) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "readout": {
                    "_target_": "sclip_lab.segmentation.readouts.class_token.class_token",
                    "wieght": 1,
                }
            },
            r"protocol.readout: unknown parameter 'wieght'.*did you mean weight",
        ),
        (
            {"refinement": {"_target_": "sclip_lab.segmentation.refinements.pamr.pamer"}},
            r"protocol.refinement: unknown function.*'pamer'.*did you mean pamr",
        ),
        (
            {"refinement": {"_target_": "sclip_lab.segmentation.refinements.pamr.affinity"}},
            r"protocol.refinement: affinity is no function for a yaml",
        ),
    ],
)
def test_functions_that_do_not_exist_or_do_not_fit_are_refused_before_anything_runs(
    fields: dict, message: str, spec: Spec
) -> None:
    with pytest.raises(LabError, match=message):
        changed(spec, protocol=Protocol(**fields))


@pytest.mark.parametrize(
    "overrides",
    [
        {"temperature": 2.0},
        {"projections": ["key"]},
        {"combine": "mean"},
        {"layers": [-2]},
        {"residual": False},
        {"class_token": False},
        {"prior": "gaussian"},
    ],
    ids=str,
)
def test_parameters_of_the_variant(spec: Spec, overrides: dict[str, object]) -> None:
    other = changed(spec, attention=lab.load_attention("csa", **overrides))
    assert other.key != spec.key


def test_weights(spec: Spec, architecture: dict[str, object]) -> None:
    state = {k: v.clone() for k, v in spec.backbone.model.state_dict().items()}
    same = load_backbone(architecture=architecture, state_dict=state, device="cpu")
    assert changed(spec, backbone=same).key == spec.key
    state["visual.proj"][0, 0] += 1e-3
    other = load_backbone(architecture=architecture, state_dict=state, device="cpu")
    assert changed(spec, backbone=other).key != spec.key


def test_precision(spec: Spec, architecture: dict[str, object]) -> None:
    state = spec.backbone.model.state_dict()
    half = load_backbone(
        architecture=architecture, state_dict=state, device="cpu", precision="bf16"
    )
    assert changed(spec, backbone=half).key != spec.key


def test_protocol_values(spec: Spec, protocol: Protocol) -> None:
    for field in ({"logit_scale": 41.0}, {"stride": 16}, {"templates": ("a picture of {}",)}):
        assert changed(spec, protocol=dataclasses.replace(protocol, **field)).key != spec.key


def test_vocabulary(spec: Spec, photos: Folder) -> None:
    classes = [*photo_files.CLASSES.classes]
    classes[1] = ("grass",)
    other = photo_files.folder(photos.root, Vocabulary("five", tuple(classes)))
    assert changed(spec, dataset=other).key != spec.key


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_one_pixel(spec: Spec, photos: Folder, kind: str) -> None:
    before = spec.key
    path = photos.root / kind / ("1.jpg" if kind == "images" else "1.png")
    pixels = np.array(Image.open(path))
    pixels[10, 10] = 0 if pixels[10, 10].max() else 1
    Image.fromarray(pixels).save(path, quality=95)
    assert changed(spec, dataset=photo_files.folder(photos.root)).key != before


def test_names_and_labels_do_not_count(spec: Spec, photos: Folder, protocol: Protocol) -> None:
    renamed = Folder("another", photos.root, "images", "masks", photo_files.CLASSES)
    other = changed(
        spec,
        dataset=renamed,
        protocol=dataclasses.replace(protocol, name="another"),
        attention=dataclasses.replace(spec.attention, name="another"),
        label="another",
    )
    assert other.key == spec.key
    assert other.record()["names"]["dataset"] == "another"


def test_record_is_plain_json(spec: Spec) -> None:
    record = json.loads(json.dumps(spec.record()))
    assert record["config"]["attention"]["projections"] == ["query", "key"]
    assert record["config"]["protocol"]["templates"] == ["a photo of {}"]
    assert set(record["provenance"]) >= {"revision", "python", "torch", "open_clip_torch"}


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A folder of modules sclip_lab.<name> beside the real ones."""
    sclip_lab.__path__.append(str(tmp_path))
    yield tmp_path
    sclip_lab.__path__.remove(str(tmp_path))
    identity._known_modules.clear()


def version(folder: Path, name: str, code: str) -> str:
    (folder / f"{name}.py").write_text(code)
    importlib.invalidate_caches()
    identity._known_modules.clear()
    return identity.of_code(["sclip_lab.trial"])


def test_code_counts_and_comments_do_not(package: Path) -> None:
    first = version(package, "trial", 'def f(x):\n    """Doc."""\n    return x + 1\n')
    layout = '# why\n\ndef f( x ):\n    """Other."""\n\n    return (x + 1)  # so\n'
    assert version(package, "trial", layout) == first
    assert version(package, "trial", "def f(x):\n    return x + 2\n") != first


def test_a_docstring_may_come_and_go(package: Path) -> None:
    plain = version(package, "trial", "def f(x):\n    return x + 1\n")
    assert version(package, "trial", '"""M."""\ndef f(x):\n    "D."\n    return x + 1\n') == plain


@pytest.mark.parametrize(
    "statement",
    [
        "from sclip_lab.helper import g",
        "from sclip_lab import helper",
        "import sclip_lab.helper as h",
        "def f():\n    from sclip_lab.helper import g\n",
    ],
)
def test_imports_are_followed(package: Path, statement: str) -> None:
    version(package, "helper", "g = 1\n")
    first = version(package, "trial", f"{statement}\n")
    assert version(package, "helper", "g = 2\n") != first
    assert version(package, "helper", "g = 1  # one\n") == first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"layers": "last 1"}, {"layers": [-1]}),
        ({"layers": "last 2"}, {"layers": [3, 2]}),
        ({"layers": "4/4"}, {"layers": [-1]}),
    ],
    ids=str,
)
def test_values_that_mean_the_same_are_one_cell(
    spec: Spec, one: dict[str, object], other: dict[str, object]
) -> None:
    first = changed(spec, attention=lab.load_attention("csa", **one))
    assert first.key == changed(spec, attention=lab.load_attention("csa", **other)).key


def test_a_fraction_is_not_an_index(spec: Spec) -> None:
    whole = changed(spec, attention=lab.load_attention("csa", layers=[1.0]))
    assert whole.key == spec.key
    assert changed(spec, attention=lab.load_attention("csa", layers=[1])).key != spec.key


def test_whole_numbers_of_a_protocol(spec: Spec, protocol: Protocol) -> None:
    whole = dataclasses.replace(protocol, logit_scale=50)
    assert whole.key == dataclasses.replace(protocol, logit_scale=50.0).key


def test_another_torch_is_another_cell(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    release = torch.__version__.partition("+")[0]
    monkeypatch.setattr(torch, "__version__", f"{release}+other")
    assert changed(spec).key == spec.key
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert changed(spec).key != spec.key
    assert spec.record()["provenance"]["processor"].split()[1]  # such as AVX2


def test_equal_specs_are_one_member_of_a_set(spec: Spec) -> None:
    assert len({spec, changed(spec), changed(spec, attention=lab.load_attention("csa_k"))}) == 2


def test_a_data_set_is_hashed_once(
    backbone: Backbone, photos: Folder, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sclip_lab.data import file_dataset

    calls = []

    def counted(paths: list[Path], title: str = "", *_: object) -> list[str]:
        calls.append(title)
        return ["0"] * len(paths)

    monkeypatch.setattr(file_dataset, "file_digests", counted)
    for name in ("vanilla", "csa", "csa_k", "csa_q"):
        cell = Spec(lab.load_attention(name), backbone, protocol, photos)
        assert cell.key
        assert cell.record()["config"]["dataset"]["digest"] == photos.key
    assert len(calls) == 1


class Own(Dataset):
    """A data set of a user's own, of one photo."""

    name, names, key = "own", ["a"], "of its content"
    vocabulary = Vocabulary.of("two", ["cat", "dog"])

    def __init__(self, sample: object = None, **fields: object) -> None:
        self.sample = sample
        self.__dict__.update(fields)

    def __getitem__(self, index: int) -> object:
        return self.sample


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"key": None}, "data set 'own': key is None; give a text that changes"),
        ({"vocabulary": ["cat", "dog"]}, r"vocabulary is a list; give Vocabulary\.of"),
        ({"ignore_index": 1}, "ignore_index is 1, but ids up to 1 are classes"),
        ({"names": ["a", "a"]}, "two samples are named 'a'"),
    ],
)
def test_a_data_set_that_would_give_wrong_numbers_is_refused(
    backbone: Backbone, protocol: Protocol, fields: dict, says: str
) -> None:
    with pytest.raises(LabError, match=says):
        _ = Spec(lab.load_attention("csa"), backbone, protocol, Own(**fields)).key
    with pytest.raises(LabError, match="which is no data set; it lacks vocabulary"):
        Spec(lab.load_attention("csa"), backbone, protocol, SimpleNamespace(name="x"))  # type: ignore[arg-type]


IMAGE, MASK = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ((IMAGE, MASK), "image a: gives a tuple of NoneType and NoneType"),
        (Sample("a", Image.fromarray(IMAGE), MASK), "gives a Sample of Image and ndarray"),
        (Sample("a", IMAGE, MASK.astype(float)), r"mask is of float64 from 0\.0; class ids are"),
        (Sample("a", IMAGE, MASK.astype(int) - 1), "mask is of int64 from -1; class ids are"),
    ],
)
def test_samples_that_are_none_are_named(
    backbone: Backbone, protocol: Protocol, tmp_path: Path, sample: object, says: str
) -> None:
    cell = Spec(lab.load_attention("csa"), backbone, protocol, Own(sample))
    with pytest.raises(LabError, match=says):
        lab.evaluate(cell, tmp_path, progress=False)
