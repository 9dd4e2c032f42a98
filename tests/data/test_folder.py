"""Folder: ids against closed forms and cv2, and one clear error for every bad input."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from sclip_lab.core.errors import LabError
from sclip_lab.data import digests
from sclip_lab.data.decode import read_image, read_mask
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary

CLASSES = Vocabulary("three", (("a",), ("b",), ("c",)))
SIZE = (12, 20)  # height, width


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def mask(seed: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, SIZE).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index, stem in enumerate(["b", "a", "c"]):
        photo(index).save(root / "images" / f"{stem}.jpg")
        Image.fromarray(mask(index)).save(root / "masks" / f"{stem}.png")
    return root


def folder(root: Path, **settings: object) -> Folder:
    arguments = {
        "name": "small", "root": root, "images": "images", "masks": "masks",
        "vocabulary": CLASSES, **settings,
    }  # fmt: skip
    return Folder(**arguments)  # type: ignore[arg-type]


def overwrite_mask(root: Path, values: np.ndarray | Image.Image, stem: str = "a") -> None:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(root / "masks" / f"{stem}.png")


# --- what is read ---------------------------------------------------------------------------


def test_samples_are_sorted_and_read_as_stored(root: Path) -> None:
    data = folder(root)
    assert data.names == ["a", "b", "c"]
    sample = data[1]
    assert sample.name == "b"
    assert sample.image.shape == (*SIZE, 3)
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.mask, mask(0))


def test_split_gives_choice_and_order_and_limit_cuts_it(root: Path) -> None:
    (root / "val.txt").write_text("c\n\n a \n")
    assert folder(root, split="val.txt").names == ["c", "a"]
    assert folder(root, split="val.txt", limit=1).names == ["c"]
    assert folder(root, limit=2).names == ["a", "b"]


def test_a_photo_outside_the_split_needs_no_mask(root: Path) -> None:
    photo(9).save(root / "images" / "unlabelled.jpg")
    (root / "val.txt").write_text("a\n")
    assert len(folder(root, split="val.txt")) == 1


def test_reduce_zero_label_drops_background_and_keeps_ignore(root: Path) -> None:
    stored = np.zeros(SIZE, np.uint8)
    stored[0, :5] = [0, 1, 2, 3, 255]
    overwrite_mask(root, stored)
    assert folder(root, reduce_zero_label=True)[0].mask[0, :5].tolist() == [255, 0, 1, 2, 255]


def test_label_map_comes_before_reduce_zero_label(root: Path) -> None:
    stored = np.zeros(SIZE, np.uint8)
    stored[0, :4] = [7, 8, 1, 0]
    overwrite_mask(root, stored)
    mapped = folder(root, label_map={7: 0, 8: 2, "0": 255})[0].mask
    assert mapped[0, :4].tolist() == [0, 2, 1, 255]
    both = folder(root, label_map={7: 0, 8: 3}, reduce_zero_label=True)[0].mask
    assert both[0, :4].tolist() == [255, 2, 0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_cv2(tmp_path: Path, orientation: int) -> None:
    ramp = np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], -1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=95)
    oracle = cv2.imread(str(path))[:, :, ::-1].astype(int)
    result = read_image(path).astype(int)
    assert result.shape == oracle.shape
    assert np.abs(result - oracle).max() <= 4  # two JPEG decoders


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_photo_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    photo(0).convert(mode).save(path)
    assert read_image(path).shape == (*SIZE, 3)


# --- digest ---------------------------------------------------------------------------------


def test_digest_follows_content_order_and_reading_not_place(root: Path, tmp_path: Path) -> None:
    first = folder(root).key
    assert len(first) == 64
    assert folder(root, name="other name").key == first
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert folder(root).key == first
    (root / "val.txt").write_text("b\na\nc\n")
    four = Vocabulary("four", (*CLASSES.classes, ("d",)))
    changed = [
        folder(root, split="val.txt").key,
        folder(root, limit=2).key,
        folder(root, ignore_index=254).key,
        folder(root, reduce_zero_label=True).key,
        folder(root, label_map={0: 1}).key,
        folder(root, vocabulary=four).key,
    ]
    assert len({first, *changed}) == 7


@pytest.mark.parametrize("what", ["images/a.jpg", "masks/a.png"])
def test_digest_sees_one_changed_byte(root: Path, what: str) -> None:
    before = folder(root).key
    content = bytearray((root / what).read_bytes())
    content[-20] ^= 1
    (root / what).write_bytes(content)
    assert folder(root).key != before


def test_digests_are_remembered_until_a_file_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "images/a.jpg"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    assert digests.file_digests([path]) == [expected]
    monkeypatch.setattr(digests, "sha256", lambda path: "read again")
    assert digests.file_digests([path]) == [expected]
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])  # another content of one size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # and one time
    assert digests.file_digests([path]) == ["read again"]


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"x": 1}'])
def test_a_damaged_cache_is_passed_over(root: Path, cache: Path, content: str) -> None:
    before = folder(root).key
    cache.mkdir(exist_ok=True)
    (cache / "file_digests.json").write_text(content)
    assert folder(root).key == before


def test_a_cache_that_cannot_be_written_is_passed_over(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder(root).key
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(digests.CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    for path in root.rglob("*.*"):
        os.utime(path, (1, 1))
    assert folder(root).key == before


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "images", "masks"])
def test_missing_folder_says_key_and_how_to_get_it(root: Path, part: str) -> None:
    missing = root / part if part else root
    missing.rename(root.parent / "elsewhere")
    with pytest.raises(LabError) as caught:
        folder(root)
    message = str(caught.value)
    assert str(missing) in message
    assert f"dataset.{part or 'root'}" in message
    assert "SCLIP_LAB_DATA" in message
    assert "data list" in message


def test_mask_without_photo_is_left_to_verify(root: Path) -> None:
    overwrite_mask(root, mask(3), stem="alone")
    assert folder(root).masks_without_photo == ["alone.png"]


def test_split_name_without_photo(root: Path) -> None:
    (root / "val.txt").write_text("a\nz\n")
    with pytest.raises(LabError, match=r"no photo: z; 'z' needs .*images/z\.jpg"):
        folder(root, split="val.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("\n", "is empty"), ("a\nb\na\n", "more than once, e.g. 'a'")],
)
def test_bad_split(root: Path, content: str | None, message: str) -> None:
    if content is not None:
        (root / "val.txt").write_text(content)
    with pytest.raises(LabError, match=message) as caught:
        folder(root, split="val.txt")
    assert "val.txt" in str(caught.value)


def test_no_photo_with_the_suffix_says_what_is_there(root: Path) -> None:
    with pytest.raises(LabError, match=r"no photo \*\.jpeg .*3 x \.jpg.*image_suffix"):
        folder(root, image_suffix=".jpeg")
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(LabError, match="found: nothing"):
        folder(root)


def test_id_outside_the_vocabulary(root: Path) -> None:
    stored = mask(0)
    stored[3, 4:6] = 7
    overwrite_mask(root, stored)
    with pytest.raises(LabError, match=r"a\.png: id 7 on 2 pixels .* 0\.\.2, and 255 for ignore"):
        folder(root)[0]
    with pytest.raises(LabError, match=r"allowed are 1\.\.3, and 0, 255 for ignore"):
        folder(root, reduce_zero_label=True)[0]


@pytest.mark.parametrize("remaining", [0.3, 0.6, 0.9, 0.99])
def test_truncated_jpeg_raises(tmp_path: Path, remaining: float) -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(remaining * len(content))])
    with pytest.raises(LabError, match=r"photo .*cut\.jpg: truncated or damaged"):
        read_image(path)


@pytest.mark.parametrize("remaining", [0.2, 0.5, 0.8])
def test_truncated_mask_raises(root: Path, remaining: float) -> None:
    path = root / "masks/a.png"
    content = path.read_bytes()
    path.write_bytes(content[: int(remaining * len(content))])
    with pytest.raises(LabError, match=r"mask .*a\.png: .*truncated or damaged"):
        read_mask(path)


@pytest.mark.parametrize(("kind", "name"), [("photo", "images/a.jpg"), ("mask", "masks/a.png")])
def test_empty_file_and_text_file(root: Path, kind: str, name: str) -> None:
    (root / name).write_bytes(b"")
    with pytest.raises(LabError, match=rf"{kind} .*{name}: the file is empty"):
        folder(root)[0]
    (root / name).write_text("<html>not found</html>")
    with pytest.raises(LabError, match=rf"{kind} .*{name}: .*not an image file"):
        folder(root)[0]
    data = folder(root)
    (root / name).unlink()
    with pytest.raises(LabError, match=rf"{kind} .*{name}: no such file"):
        data[0]
    with pytest.raises(LabError, match=name):
        _ = data.key


def test_sizes_that_differ(root: Path) -> None:
    overwrite_mask(root, np.zeros((SIZE[0], SIZE[1] + 1), np.uint8))
    with pytest.raises(LabError, match=r"a\.jpg is 20x12, its mask .*a\.png is 21x12"):
        folder(root)[0]


def test_sixteen_bit_photo(root: Path) -> None:
    deep = np.full(SIZE, 0x1234, np.uint16)
    Image.fromarray(deep).save(root / "images/deep.png")
    photo = read_image(root / "images/deep.png")
    assert photo.shape == (*SIZE, 3)
    assert (photo == 0x12).all()
    Image.fromarray(np.zeros(SIZE, np.float32)).save(root / "images/deep.tiff")
    with pytest.raises(LabError, match="is no photo of 8 or 16 bits"):
        read_image(root / "images/deep.tiff")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ignore_index": 2},
            r"must be in 3\.\.65535, for 2 is one of the 3 classes",
        ),
        ({"ignore_index": 65536}, "ignore_index is 65536"),
        ({"limit": 0}, "limit 0 must be at least 1"),
        ({"label_map": {5: 9}}, "label_map sends 5 to 9, outside the 3 classes"),
        ({"label_map": {-1: None}}, "label_map holds what is no id: -1: None"),
        ({"sample": 0}, "sample 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must be at least 0"),
        ({"mask_name": "mask"}, "mask_name is 'mask'; it must contain '{stem}'"),
        ({"vocabulary": "sclip_voc2"}, "unknown vocabulary 'sclip_voc2'; did you mean"),
    ],
)
def test_impossible_settings(root: Path, settings: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        folder(root, **settings)
