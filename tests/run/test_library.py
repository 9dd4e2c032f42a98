"""Names where objects are meant, images of any kind, and one line for anything else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.protocol import Protocol

NAMES = ["sky", "grass", "dog"]
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def test_a_photo_may_be_anything(backbone: Backbone, photos: Folder, protocol: Protocol) -> None:
    file = Path(photos.image_path("0"))
    alone = lab.segment(backbone, file, NAMES, "csa", protocol)
    with Image.open(file) as image:
        forms = [str(file), image, np.array(image)]
        listed = lab.segment(backbone, forms, NAMES, lab.load_attention("csa"), protocol)
    for labels in listed:
        np.testing.assert_array_equal(labels, alone)
    folder = lab.segment(backbone, file.parent, NAMES, "csa", protocol)
    assert list(folder) == sorted(p.name for p in file.parent.iterdir())
    np.testing.assert_array_equal(folder[file.name], alone)


def test_a_pil_image_is_read_as_its_file(backbone: Backbone, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.fromarray(PHOTO[:40]).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("turned.png", "deep.png"):
        with Image.open(tmp_path / name) as image:
            for call in (lab.dense_features, lambda b, i, a: lab.segment(b, i, NAMES, a)):
                of_file = call(backbone, tmp_path / name, "csa")
                np.testing.assert_array_equal(call(backbone, image, "csa"), of_file)
    with pytest.raises(LabError, match="mode 'F' is no photo"):
        lab.segment(backbone, Image.fromarray(PHOTO[..., 0].astype(np.float32)), NAMES)


def test_segment_is_right_without_a_protocol() -> None:
    scene = (data := lab.load_dataset("patchwork", limit=1))[0]
    labels = lab.segment("patchwork_vit", scene.image, "patchwork")
    counted = scene.mask != data.ignore_index
    assert (labels == scene.mask)[counted].mean() > 0.5
    by_name = lab.segment("patchwork_vit", scene.image, data.vocabulary, protocol="sclip")
    np.testing.assert_array_equal(labels, by_name)


def test_spec_of_names_is_the_spec_of_objects() -> None:
    data = lab.load_dataset("patchwork", limit=2)
    spec_by_name = lab.Spec("csa", dataset=data)
    protocol = lab.load_protocol("sclip", "patchwork")
    backbone = lab.load_backbone("patchwork_vit")
    objects = Spec(lab.load_attention("csa"), backbone, protocol, data)
    assert spec_by_name.key == objects.key
    assert spec_by_name.label == "csa"
    assert isinstance(spec_by_name, Spec)


def test_evaluate_takes_names(tmp_path: Path) -> None:
    data = lab.load_dataset("patchwork", limit=2)
    df = lab.evaluate(["vanilla", "csa"], tmp_path, dataset=data, progress=False)
    assert list(df["attention"].unique()) == ["vanilla", "csa"]
    cell = lab.Spec("csa", dataset=data)
    again = lab.evaluate(cell, tmp_path, progress=False)
    assert again["spec"].unique().tolist() == [cell.key[:12]]
    assert lab.results.miou(df).iloc[1] == lab.results.miou(again).iloc[0]


def test_an_array_whose_channels_were_turned_round(backbone: Backbone) -> None:
    turned = PHOTO[..., ::-1]
    features = lab.dense_features(backbone, turned, "csa")
    assert torch.equal(features, lab.dense_features(backbone, turned.copy(), "csa"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: lab.segment(b, np.zeros((4, 4, 3)), NAMES), "shape (4, 4, 3) and type float64"),
        (lambda b: lab.segment(b, np.zeros((4, 4), np.uint8), NAMES), "shape (4, 4)"),
        (lambda b: lab.segment(b, None, NAMES), "give a file, a PIL image"),
        (lambda b: lab.segment(b, torch.zeros(3, 4, 4).bfloat16(), NAMES), "torch.bfloat16: give"),
        (lambda b: lab.segment(b, "missing.jpg", NAMES), "missing.jpg"),
        (lambda b: lab.segment(b, "x.jpg", NAMES, "cssa"), "did you mean csa"),
        (lambda b: lab.segment("patchwork_vitt", "x.jpg", NAMES), "did you mean patchwork_vit"),
        (lambda b: lab.segment(b, "x.jpg", NAMES, 5), "attention is a int: give a name"),
        (lambda b: lab.Spec("csa", b, "sclipp"), "did you mean sclip"),
        (lambda b: lab.Spec("csa", b, dataset="voc22"), "did you mean voc21"),
        (lambda b: lab.Spec("csa", b, dataset=3), "dataset is a int"),
        (lambda b: lab.evaluate(["csa"], backbone=b, dataset="patchwrk"), "did you mean patchwork"),
        (lambda b: lab.evaluate([]), "no specs"),
        (lambda b: lab.evaluate("csa", backbone=b, batch_images=0), "batch_images 0 must be"),
        (lambda b: lab.evaluate("csa", backbone=b, batch_windows=-1), "batch_windows -1 must be"),
        (lambda b: lab.evaluate("csa", backbone=b, shard=1), "shard: 1 must be"),
        (lambda b: lab.evaluate("csa", backbone=b, shard=(0, 1, 2)), "must be a list of 2"),
        (lambda b: lab.evaluate("csa", None, backbone=b), "store: None must be text or a Path"),
        (lambda b: lab.evaluate("csa", progess=1, backbone=b), "did you mean progress?"),
        (lambda b: lab.results.load(None), "path: None must be text or a Path"),
        (lambda b: lab.explore(3, ["a"], backbone=b), "give a file, a PIL image"),
        (lambda b: lab.explore(PHOTO, ["a"], backbone=b, max_patches=0), "max_patches 0 must be"),
        (lambda b: lab.explore(PHOTO, ["a"], backbone=b, max_patches=None), "max_patches: None"),
        (
            lambda b: lab.segment(b, PHOTO, NAMES, "proxyclip", guidance="dno"),
            "guidance 'dno'",
        ),
        (
            lambda b: lab.dense_features(b, PHOTO, "proxyclip", guidance=3),
            "guidance is a int: give",
        ),
        (lambda b: lab.dense_features(b, [1, 2], "csa"), "must hold images of one size"),
        (lambda b: lab.segment(b, PHOTO[:0], NAMES), "shape (0, 64, 3)"),
        (lambda b: lab.segment(b, PHOTO, "cat"), "unknown vocabulary 'cat'"),
        (lambda b: lab.segment(b, PHOTO, ["0: cat", "dog"]), "without its number"),
        (lambda b: lab.segment(b, PHOTO, [1, 2]), "class 0: 1 is no name"),
        (lambda b: lab.segment(b, PHOTO, None), "class names are a NoneType"),
        (lambda b: lab.segment(b, PHOTO, NAMES, protocol=3), "protocol is a int: give a name"),
        (lambda b: lab.segment(b, PHOTO, NAMES, batch_windows=0), "must be at least 1"),
        (lambda b: lab.explore(PHOTO, "cat;my_dog", backbone=b), "write 'my dog'"),
        (lambda b: lab.evaluate(3), "give a name, or what lab.load_attention returns"),
        (lambda b: lab.dense_features(b, PHOTO, None), "attention is a NoneType"),
        (lambda b: lab.dense_features(b, PHOTO.astype(int), "csa"), "give uint8 RGB"),
        (lambda b: lab.dense_features(b, None, "csa"), "images are a NoneType; give files"),
        (lambda b: lab.dense_features(b, [], "csa"), "images of one size and type"),
        (lambda b: lab.dense_features(b, [PHOTO, PHOTO[:32]], "csa"), "of one size and type"),
        (lambda b: lab.attention_maps(b, [PHOTO, PHOTO], "csa"), "attention_maps of 2 images"),
        (lambda b: lab.attention_maps(b, np.full((3, 64, 64), np.nan), "csa"), "are not finite"),
    ],
)
def test_everything_else_is_one_line(backbone: Backbone, call, message: str) -> None:
    with pytest.raises(LabError, match=re.escape(message)):
        call(backbone)


def test_an_empty_folder_is_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="holds no photo"):
        lab.segment(backbone, tmp_path, NAMES)


def test_the_script_in_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
    script = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(script, "library.md", "exec"), names)
    assert (tmp_path / "results/features.npy").is_file()
    assert "csa" in capsys.readouterr().out
    assert np.shape(names["middle"])


def test_features_of_a_list_are_those_of_a_batch(backbone: Backbone) -> None:
    photos = np.stack([PHOTO, PHOTO[::-1]])
    batch = lab.dense_features(backbone, photos.transpose(0, 3, 1, 2).copy(), "csa")
    listed = lab.dense_features(backbone, [Image.fromarray(photo) for photo in photos], "csa")
    np.testing.assert_array_equal(listed, batch)


@pytest.mark.parametrize(("scale", "warns"), [(1 / 255, True), (1.0, True), (4 / 255, False)])
def test_floats_that_look_like_a_photo_are_doubtful(
    backbone: Backbone, scale: float, warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    lab.dense_features(backbone, PHOTO.transpose(2, 0, 1).astype(np.float32) * scale, "csa")
    messages = [str(warning.message) for warning in recwarn]
    assert any("give uint8 RGB if they are not" in message for message in messages) == warns


def test_words_that_the_embedded_network_never_saw_are_doubtful(tmp_path: Path) -> None:
    network = lab.load_backbone("patchwork_vit")
    with pytest.warns(UserWarning, match="knows 16 words, not cat:"):
        lab.segment(network, PHOTO, ["stripes", "cat"])
    with pytest.warns(UserWarning, match="knows 16 words, not "):
        lab.evaluate("csa", tmp_path, backbone=network, dataset=own(tmp_path), progress=False)


def test_another_network_on_the_same_words_hides_no_warning(
    tmp_path: Path, backbone: Backbone
) -> None:
    data = own(tmp_path)
    cells = [lab.Spec("csa", each, dataset=data) for each in ("patchwork_vit", backbone)]
    with pytest.warns(UserWarning, match="knows 16 words, not cat"):
        lab.evaluate(cells, tmp_path, progress=False)


def own(root: Path) -> Folder:
    for folder, pixels in (("images", PHOTO), ("masks", PHOTO[..., 0] % 2)):
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "a.png")
    return Folder("own", root, "images", "masks", ["cat", "dog"], image_suffix=".png")


def test_random_weights_are_meant_or_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    lab.load_backbone("ViT-S-32-alt", seed=0)
    assert not [each for each in recwarn if "random" in str(each.message)]
    lab.load_backbone("ViT-S-32-alt")
    assert "ViT-S-32-alt: neither pretrained= nor" in str(recwarn.pop(UserWarning).message)
