"""Folders that look right and would give wrong numbers: each is refused, with the remedy named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.data import polygons
from sclip_lab.data.decode import read_image, read_mask
from sclip_lab.data.folder import Folder
from sclip_lab.data.parquet import HuggingFace
from sclip_lab.data.verify import verify
from sclip_lab.data.vocabulary import Vocabulary
from tests.data.own_formats import SIZE, image, photo

TWO = Vocabulary("two", (("ground",), ("road",)))


def write_mask(path: Path, ids: np.ndarray, encoding: str = "PNG", **settings: object) -> None:
    image(path, ids.astype(np.uint8), encoding, **settings)


def halves(left: int, right: int) -> np.ndarray:
    ids = np.full(SIZE, left, np.uint8)
    ids[:, SIZE[1] // 2 :] = right
    return ids


def two_class_folder(root: Path, *ids: np.ndarray, **settings: object) -> Folder:
    for index, values in enumerate(ids):
        photo(root / f"images/{index}.jpg")
        write_mask(root / f"masks/{index}.png", values)
    return Folder("small", root, "images", "masks", TWO, **settings)  # type: ignore[arg-type]


# --- lossy masks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "settings"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("TIFF", {}),
        *(("TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ],
)
def test_every_lossless_form_gives_the_stored_ids(
    tmp_path: Path, encoding: str, settings: dict
) -> None:
    ids = np.random.default_rng(1).integers(0, 256, SIZE).astype(np.uint8)
    write_mask(tmp_path / "mask", ids, encoding, **settings)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask"), ids)


def test_a_gif_in_colours_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(halves(0, 5)).convert("P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    image.save(tmp_path / "m.gif")
    with pytest.raises(LabError, match="number the palette anew"):
        read_mask(tmp_path / "m.gif")


def test_verify_names_every_lossy_mask(tmp_path: Path) -> None:
    data = two_class_folder(tmp_path, halves(0, 1), halves(1, 0))
    for index in (0, 1):
        write_mask(tmp_path / f"masks/{index}.png", halves(0, 1), "JPEG")
    assert sum("is JPEG" in problem for problem in verify(data).problems) == 2


# --- masks of 0 and 255 ---------------------------------------------------------------------


def test_masks_of_0_and_255_are_refused_before_anything_is_counted(tmp_path: Path) -> None:
    data = two_class_folder(tmp_path, halves(0, 255), np.zeros(SIZE), halves(255, 0))
    with pytest.raises(LabError, match=r"0 and 255 alone.*'ground'.*label_map: \{255: 1\}"):
        _ = data.key
    assert any("label_map: {255: 1}" in problem for problem in verify(data).problems)


def test_both_remedies_for_0_and_255_do_what_they_say(tmp_path: Path) -> None:
    data = two_class_folder(tmp_path, halves(0, 255), label_map={255: 1}, ignore_index=254)
    assert len(data.key) == 64
    np.testing.assert_array_equal(data[0].mask, halves(0, 1))
    data = two_class_folder(tmp_path, halves(0, 255), label_map={255: 1})
    np.testing.assert_array_equal(data[0].mask, halves(0, 1))
    data = two_class_folder(tmp_path, halves(0, 255), label_map={255: 255})
    assert len(data.key) == 64
    np.testing.assert_array_equal(data[0].mask, halves(0, 255))


def test_a_void_border_beside_both_classes_is_no_fault(tmp_path: Path) -> None:
    both = halves(0, 1)
    both[0] = 255
    assert len(two_class_folder(tmp_path, halves(0, 255), both).key) == 64


# --- photos of several suffixes -------------------------------------------------------------


def mixed(root: Path) -> None:
    for name in ("a.jpg", "b.png", "c.JPG", "d.jpeg"):
        photo(root / "images" / name)
        write_mask(root / "masks" / f"{name[0]}.png", halves(0, 1))


def test_photos_of_other_suffixes_are_not_left_out(tmp_path: Path) -> None:
    mixed(tmp_path)
    with pytest.raises(LabError, match=r"3 photos in .*b\.png, c\.JPG, d\.jpeg") as caught:
        two_class_folder(tmp_path)
    remedy = "image_suffix: [.JPG, .jpeg, .jpg, .png]"
    assert remedy in str(caught.value)
    data = two_class_folder(tmp_path, image_suffix=remedy[15:-1].split(", "))
    assert data.names == ["a", "b", "c", "d"]
    assert [data.image_path(name).name for name in data.names] == [
        "a.jpg", "b.png", "c.JPG", "d.jpeg",
    ]  # fmt: skip


def test_a_photo_of_another_suffix_without_mask_is_no_sample(tmp_path: Path) -> None:
    data = two_class_folder(tmp_path, halves(0, 1))
    photo(tmp_path / "images/preview.png")
    assert two_class_folder(tmp_path, halves(0, 1)).names == data.names == ["0"]


@pytest.mark.parametrize("suffixes", [".jpg", [".jpg", ".jpeg"]])
def test_two_photos_of_one_mask(tmp_path: Path, suffixes: str | list[str]) -> None:
    for name in ("a.jpg", "a.jpeg"):
        photo(tmp_path / "images" / name)
    write_mask(tmp_path / "masks/a.png", halves(0, 1))
    with pytest.raises(LabError, match=r"a\.jpeg"):
        two_class_folder(tmp_path, image_suffix=suffixes)


def test_photos_below_are_not_left_out(tmp_path: Path) -> None:
    two_class_folder(tmp_path, halves(0, 1))
    photo(tmp_path / "images/more/b.jpg")
    write_mask(tmp_path / "masks/more/b.png", halves(0, 1))
    with pytest.raises(LabError, match=r"1 photos .*more/b\.jpg; set recursive: true to read all"):
        two_class_folder(tmp_path)
    assert two_class_folder(tmp_path, recursive=True).names == ["0", "more/b"]


def test_suffixes_with_words_in_them(tmp_path: Path) -> None:
    photo(tmp_path / "images/a_photo.png")
    photo(tmp_path / "images/b_photo.jpg")
    for stem in "ab":
        write_mask(tmp_path / f"masks/{stem}_ids.png", halves(0, 1))
    settings = {"mask_name": "{stem}_ids"}
    with pytest.raises(LabError, match=r"image_suffix: \[_photo\.jpg, _photo\.png\]"):
        two_class_folder(tmp_path, image_suffix="_photo.png", **settings)


def test_photos_and_masks_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    write_mask(tmp_path / "a.png", halves(0, 1))
    data = Folder("one", tmp_path, ".", ".", TWO)
    assert data.names == ["a"]


# --- masks of several pictures, and transparent ones -----------------------------------------


@pytest.mark.parametrize("encoding", ["TIFF", "PNG", "GIF"])
def test_a_mask_of_several_pictures_is_refused(tmp_path: Path, encoding: str) -> None:
    classes = [Image.fromarray(halves(k, 1 - k)) for k in (0, 1)]
    classes[0].save(tmp_path / "m", encoding, save_all=True, append_images=classes[1:])
    with pytest.raises(LabError, match="m: holds 2 pictures, perhaps one a class"):
        read_mask(tmp_path / "m")


@pytest.mark.parametrize("settings", [{"size": (8, 8)}, {"tiffinfo": {254: 4}}])
def test_overviews_of_a_tiff_are_no_pictures(tmp_path: Path, settings: dict) -> None:
    overview = Image.fromarray(halves(1, 0))
    if "size" in settings:
        overview = overview.resize(settings["size"])
    else:
        overview.encoderinfo = settings
    Image.fromarray(halves(0, 1)).save(
        tmp_path / "m", "TIFF", save_all=True, append_images=[overview]
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "m"), halves(0, 1))


def test_transparency_must_not_decide_a_class(tmp_path: Path) -> None:
    red = np.full((*SIZE, 4), (255, 0, 0, 255), np.uint8)
    red[:, : SIZE[1] // 2, 3] = 0  # the region is in the alpha channel alone
    Image.fromarray(red).save(tmp_path / "m.png")
    with pytest.raises(LabError, match=r"m\.png: transparent pixels have colours of opaque ones"):
        read_mask(tmp_path / "m.png", colours=True)
    red[red[..., 3] == 0] = 0  # transparent black
    Image.fromarray(red).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", colours=True), red[..., :3])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04" + bytes(99), r"is a zip or \.npz, not an image file; save one array"),
        (b"\0\5\x16\7Mac OS X", r"is what macOS writes beside a file, .* named \._\*"),
        (b"MATLAB 5.0 MAT-file", "is MATLAB's, not an image file; save the ids as .npy"),
        (b"<annotation></annotation>", "is XML, not an image file; export masks"),
        (b"0 0.1 0.2 0.3 0.4\n", "is text, not an image file; save ids"),
        (bytes(4) + b"ftypheic" + bytes(99), "is HEIC or a film"),
        (b"\xff\xff\xff", "not an image file; truncated or damaged"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(LabError, match=says):
        read_mask(tmp_path / "m.png")


def test_a_photo_of_12_bits_in_16_is_refused(tmp_path: Path) -> None:
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "p.png")
    with pytest.raises(LabError, match="has 16 bits, but no value above 4095"):
        read_image(tmp_path / "p.png")
    Image.fromarray(grey * 16).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").max() == 255
    Image.fromarray(grey * 0).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").max() == 0


# --- shapes of annotation files --------------------------------------------------------------


def test_a_rectangle_of_two_or_four_corners() -> None:
    two, four = [[2, 3], [6, 9]], [[2, 3], [6, 3], [6, 9], [2, 9]]
    truth = np.zeros((20, 20), bool)
    truth[3:9, 2:6] = True
    for points in (two, two[::-1], four):
        np.testing.assert_array_equal(polygons.rectangle(points, (20, 20)), truth)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([[1, 1, 5, 1]], "three or more corners"),
        ([[1, 1, 5, 1, 5, 5, 1]], "a polygon is a list x1, y1"),
        ([[[1, 1], [5, 1], [5, 5]]], "a polygon is a list x1, y1"),
        ([1, 1, 5, 1, 5, 5], "a polygon is a list x1, y1"),
        ([[30, 1, 40, 1, 40, 9]], "outside of the photo of 20 x 20"),
        ([[-9, 1, -5, 1, -5, 9]], "outside of the photo of 20 x 20"),
        ({"size": [20, 20], "counts": [0, 9]}, "do not fill a photo"),
    ],
)
def test_shapes_that_would_be_drawn_wrong_are_refused(value: object, says: str) -> None:
    with pytest.raises(LabError, match=says):
        polygons.segmentation(value, (20, 20))


@pytest.mark.parametrize(
    ("files", "fine"),
    [
        (["train-00000-of-00002", "train-00001-of-00002"], True),
        (["train-00001-of-00002"], False),
        (["train-00000-of-00001", "train-00000-of-00001-0123456789abcdef"], False),
    ],
)
def test_shards_are_all_there_once(tmp_path: Path, files: list[str], fine: bool) -> None:
    encoded = io.BytesIO()
    Image.fromarray(halves(0, 1)).save(encoded, "PNG")
    table = pa.Table.from_pylist([{"image": encoded.getvalue(), "mask": encoded.getvalue()}])
    for file in files:
        pq.write_table(table, tmp_path / f"{file}.parquet")
    if fine:
        assert len(HuggingFace("mine", tmp_path, TWO)) == len(files)
    else:
        with pytest.raises(LabError, match=r"each of \d shards must lie below .* once"):
            HuggingFace("mine", tmp_path, TWO)


def test_a_suffix_without_its_dot_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"image_suffix is 'jpg'; write '\.jpg'"):
        two_class_folder(tmp_path, halves(0, 1), image_suffix="jpg")
