"""What evaluate says of the data beside the numbers."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Pictures
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.picture_files import load as load_panels
from sclip_lab.segmentation.protocol import Protocol

WORDS = Vocabulary("three", (("sky",), ("road",), ("car",)))


def folder(root: Path, masks: list[np.ndarray], **settings: object) -> Folder:
    for index, mask in enumerate(masks):
        for kind in ("images", "masks"):
            (root / kind).mkdir(exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (*mask.shape, 3), np.uint8)
        Image.fromarray(noise).save(root / f"images/{index}.png")
        Image.fromarray(mask.astype(np.uint8)).save(root / f"masks/{index}.png")
    arguments = {"image_suffix": ".png", **settings}
    return Folder("mine", root, "images", "masks", WORDS, **arguments)  # type: ignore[arg-type]


def run(
    backbone: Backbone, dataset: Folder, root: Path, caplog: pytest.LogCaptureFixture, **how: object
) -> str:
    caplog.set_level(logging.INFO)
    spec = Spec(lab.load_attention("csa"), backbone, Protocol(short_side=64), dataset)
    evaluate([spec], root / "store", progress=False, **how)  # type: ignore[arg-type]
    return caplog.text


def test_one_line_says_what_is_evaluated(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = [np.arange(64 * 64).reshape(64, 64) % 3 for _ in range(3)]
    folder(tmp_path, masks)
    Image.fromarray(masks[0].astype(np.uint8)).save(tmp_path / "masks/alone.png")
    text = run(backbone, folder(tmp_path, masks, limit=2), tmp_path, caplog)
    assert "mine: 2 photos with masks (first 2), 3 classes; 1 mask without a photo" in text
    assert "mine: 2 masks read, 0.0% of pixels are ignored" in text
    assert "warning" not in text


def test_doubtful_masks_are_said(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = np.full((64, 64), 255)
    mask[:16] = 0
    data = folder(tmp_path, [mask, mask], label_map={255: "ignore"})
    text = run(backbone, data, tmp_path, caplog)
    assert "mine: 75.0% of pixels are ignored: scores are of the rest alone" in text
    assert "every counted pixel is of class 0, 'sky'" in text


def test_classes_that_are_predicted_but_never_true(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network with random weights predicts something; the masks hold another class."""
    data = folder(tmp_path, [np.zeros((64, 64))])
    spec = Spec(lab.load_attention("csa"), backbone, Protocol(short_side=64), data)
    df = evaluate([spec], tmp_path / "first", progress=False)
    predicted = df.groupby("predicted")["pixels"].sum()
    most = int(predicted.idxmax())
    other = folder(tmp_path, [np.full((64, 64), (most + 1) % 3)])
    text = run(backbone, other, tmp_path, caplog)
    share = predicted[predicted.index != (most + 1) % 3].sum() / predicted.sum()
    assert f"mine: predicted on {share:.1%} of pixels, but in no mask: " in text
    assert WORDS.names[most] in text.rpartition("but in no mask: ")[2]


def test_skip_that_leaves_nothing_says_why(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = folder(tmp_path, [np.arange(64 * 64).reshape(64, 64) % 3] * 2)
    assert data.key
    for index in range(2):
        (tmp_path / f"masks/{index}.png").write_bytes(b"")
    broken = folder(tmp_path, [])
    with pytest.raises(LabError, match=r"left out all 2 photos of mine; 0: .*the file is empty"):
        run(backbone, broken, tmp_path, caplog, on_error="skip")


def test_more_than_256_classes_in_counts_and_pictures(backbone: Backbone, tmp_path: Path) -> None:
    words = Vocabulary("many", tuple((f"thing {index}",) for index in range(300)))
    ids = np.random.default_rng(0).choice([0, 255, 256, 299, 65535], (64, 64)).astype(np.uint16)
    for kind, values in (("images", np.zeros((64, 64, 3), np.uint8)), ("masks", ids)):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "a.png")
    data = Folder(
        "many", tmp_path, "images", "masks", words, image_suffix=".png", ignore_index=65535
    )
    spec = Spec(lab.load_attention("csa"), backbone, Protocol(short_side=64), data)
    df = evaluate([spec], tmp_path / "store", observers=[Pictures(1)], progress=False)
    counted = df.groupby("true")["pixels"].sum()
    assert counted.to_dict() == {i: int((ids == i).sum()) for i in (0, 255, 256, 299)}
    (panel,) = load_panels(tmp_path / "store")
    np.testing.assert_array_equal(panel.mask, ids)
    prediction = panel.predictions[0].prediction[ids != 65535]
    values, pixels = np.unique(prediction, return_counts=True)
    predicted = df.groupby("predicted")["pixels"].sum().to_dict()
    assert predicted == dict(zip(values.tolist(), pixels.tolist(), strict=True))


def test_names_that_the_text_tower_cannot_tell_apart(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = Vocabulary("alike", (("Red car",), ("red car",), ("bed",), ("bunk", "bed ")))
    data = folder(tmp_path, [np.arange(64 * 64).reshape(64, 64) % 3])
    data.vocabulary = words
    text = run(backbone, data, tmp_path, caplog)
    assert "alike: classes 0 and 1 are one text to the text tower" in text
    assert "classes 2 and 3" not in text  # equal names are said by `data verify`


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_that_changes_after_hashing_gives_no_number(
    backbone: Backbone, tmp_path: Path, kind: str, on_error: str
) -> None:
    """And once it is restored the cell is what it would have been."""
    masks = [np.arange(64 * 64).reshape(64, 64) // 200 % 3, np.arange(64 * 64).reshape(64, 64) % 3]
    data = folder(tmp_path, masks)
    protocol = Protocol(short_side=64)
    spec = Spec(lab.load_attention("csa"), backbone, protocol, data)
    expected = evaluate([spec], tmp_path / "untouched", progress=False)
    assert spec.key  # hashed
    path = tmp_path / kind / "1.png"
    original, times = path.read_bytes(), path.stat()
    path.write_bytes((tmp_path / kind / "0.png").read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    store = tmp_path / "store"
    if on_error == "stop":
        with pytest.raises(LabError, match=rf"{kind}/1\.png: the file has changed since it was"):
            evaluate([spec], store, progress=False)
    else:
        df = evaluate([spec], store, progress=False, on_error="skip")
        assert set(df["image"].astype(str)) == {"0"}
    path.write_bytes(original)
    again = Spec(lab.load_attention("csa"), backbone, protocol, folder(tmp_path, []))
    assert again.key == spec.key
    df = evaluate([again], store, progress=False)
    columns = ["image", "true", "predicted", "pixels"]
    pd.testing.assert_frame_equal(
        df[columns].astype({"image": str}).sort_values(columns, ignore_index=True),
        expected[columns].astype({"image": str}).sort_values(columns, ignore_index=True),
    )
