"""Small folders in the forms that people have on their disks, each with the masks that are right.

A case writes a folder from masks of known ids and says the yaml that reads it. What is right comes
from the arrays that were written, never from the library: photos are noise, masks are blocks of
8 x 8 pixels, polygons are rectangles whose corners are whole pixels.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco

SIZE = (24, 32)  # height, width
STEMS = ("a1", "a2", "b1", "b2")
FOLDER = "sclip_lab.data.folder.Folder"
COCO = "sclip_lab.data.coco_json.CocoJson"
TABLE = "sclip_lab.data.parquet.HuggingFace"
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 64)}
NAMES = ["background", "cat", "dog"]

Masks = dict[str, np.ndarray]


def unchanged(ids: np.ndarray) -> np.ndarray:
    return ids


@dataclass
class Case:
    """One kind of folder.

    Attributes:
        write: writes it; gets the root and {stem: (height, width) ids}, returns the yaml's keys.
        error: what reading it must say, a regular expression; None where it must be read.
        names: {stem: the sample's name} where they differ.
        truth: what the masks must become, where that is not what was drawn.
        classes: how many there are in the masks.
        guess: whether `data guess` must write a working yaml for it.
    """

    write: Callable[[Path, Masks], dict[str, Any]]
    error: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    truth: Callable[[np.ndarray], np.ndarray] = unchanged
    classes: int = 3
    guess: bool = True


CASES: dict[str, Case] = {}


def case(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(write: Callable[..., Any]) -> Callable[..., Any]:
        CASES[name] = Case(write, **settings)
        return write

    return register


def add(
    name: str,
    write: Callable[..., dict[str, Any]] | None = None,
    keys: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """A case that one of the functions below writes, by default `pairs`.

    ``keys`` are keys of the yaml, ``settings`` go to `Case` or to the function.
    """
    of_case = {key: settings.pop(key) for key in Case.__dataclass_fields__ if key in settings}

    @case(name, **of_case)
    def _(root: Path, masks: Masks) -> dict[str, Any]:
        return (write or pairs)(root, masks, **settings) | dict(keys or {})


def drawn(classes: int, void: int | None = None) -> Masks:
    """A mask of blocks for each stem, in which every class occurs."""
    masks = {}
    for index, stem in enumerate(STEMS):
        rng = np.random.default_rng(index)
        blocks = rng.integers(0, classes, (3, 4))
        blocks.ravel()[: min(classes, 12)] = rng.permutation(min(classes, 12))
        if void is not None:
            blocks[2, 3] = void
        masks[stem] = np.kron(blocks, np.ones((8, 8), int))
    if classes > 12:
        masks[STEMS[0]][:8, :8] = classes - 1
    return masks


def photo(path: Path, seed: int = 0, size: tuple[int, int] = SIZE, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF"}
    Image.fromarray(values).save(path, kinds[path.suffix.lower()], **settings)


def image(path: Path, values: np.ndarray, kind: str | None = None, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, kind, **settings)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pairs(
    root: Path, masks: Masks, images: str = "images/{}.jpg", ids: str = "masks/{}.png",
    convert: Callable[[np.ndarray], np.ndarray] = unchanged, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Photos and masks. Their paths hold {} or {0} for the stem and {1} for its first letter."""
    for stem, mask in masks.items():
        values = convert(mask)
        narrow = values.astype(np.uint8) if values.dtype.itemsize == 8 else values
        photo(root / images.format(stem, stem[0]))
        image(root / ids.format(stem, stem[0]), narrow, **settings)
    folders = [path.partition("{")[0].rpartition("/")[0] or "." for path in (images, ids)]
    return {"_target_": FOLDER, "images": folders[0], "masks": folders[1], "vocabulary": NAMES}


def coloured(mask: np.ndarray, colours: Mapping[int, tuple[int, ...]] = COLOURS) -> np.ndarray:
    picture = np.zeros((*mask.shape, len(colours[0])), np.uint8)
    for number, colour in colours.items():
        picture[mask == number] = colour
    return picture


def remapped(table: Mapping[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    def convert(mask: np.ndarray) -> np.ndarray:
        result = mask.copy()
        for old, new in table.items():
            result[mask == old] = new
        return result

    return convert


def void(number: int, value: int = 255) -> Callable[[np.ndarray], np.ndarray]:
    return remapped({number: value})


MANY = [f"c{i}" for i in range(847)]
PALETTE = {name: list(COLOURS[index]) for index, name in enumerate(NAMES)}


# --- images of ids --------------------------------------------------------------------------


add("ids in png")
add("photos named .JPG", images="images/{}.JPG", keys={"image_suffix": ".JPG"})


@case("photos of four suffixes")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    suffixes = [".jpg", ".png", ".JPG", ".jpeg"]
    for (stem, mask), suffix in zip(masks.items(), suffixes, strict=True):
        config = pairs(root, {stem: mask}, f"images/{{}}{suffix}")
    return config | {"image_suffix": suffixes}


add("ids with gaps", convert=remapped({0: 7, 1: 21, 2: 200}),
    keys={"label_map": {7: 0, 21: 1, 200: 2}})  # fmt: skip
add("ids from 1", convert=lambda m: m + 1, keys={"reduce_zero_label": True})
add(
    "0 as void",
    keys={"reduce_zero_label": True, "vocabulary": NAMES[1:]},
    truth=lambda m: np.where(m == 0, 255, m - 1),
    guess=False,
)  # fmt: skip; nothing says so


add("void 255", convert=void(2), keys={"vocabulary": NAMES[:2]}, truth=void(2))
add("several voids", convert=remapped({3: 253, 4: 254}),
    keys={"label_map": {253: "ignore", 254: "ignore"}}, truth=remapped({3: 255, 4: 255}),
    classes=5, guess=False)  # fmt: skip
add("16 bits, 65535 as void", convert=lambda m: void(2, 65535)(m).astype(np.uint16),
    keys={"label_map": {65535: "ignore"}, "vocabulary": NAMES[:2]}, truth=void(2))  # fmt: skip
add("847 classes of 16 bits", convert=np.uint16, keys={"vocabulary": MANY, "ignore_index": 65535},
    classes=847)  # fmt: skip


add("847 classes of 16 bits in tif, 65535 as void", ids="masks/{}.tif", classes=847,
    convert=lambda m: void(3, 65535)(m).astype(np.uint16), truth=void(3, 65535),
    keys={"vocabulary": MANY, "ignore_index": 65535, "mask_suffix": ".tif"})  # fmt: skip
add("int32 tif", ids="masks/{}.tif", convert=np.int32, keys={"mask_suffix": ".tif"})
add("tif with lzw", ids="masks/{}.tif", compression="tiff_lzw", keys={"mask_suffix": ".tif"})
add("bmp", ids="masks/{}.bmp", keys={"mask_suffix": ".bmp"})


@case("palette png, indices are ids")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for stem, mask in masks.items():
        photo(root / f"images/{stem}.jpg")
        indexed = Image.fromarray(mask.astype(np.uint8), mode="P")
        indexed.putpalette([value for colour in COLOURS.values() for value in colour])
        (root / "masks").mkdir(exist_ok=True)
        indexed.save(root / f"masks/{stem}.png")
    return {"_target_": FOLDER, "images": "images", "masks": "masks", "vocabulary": NAMES}


@case("palette png, colours are classes", guess=False)  # its indices are as good a guess
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for stem, mask in masks.items():
        photo(root / f"images/{stem}.jpg")
        indexed = Image.fromarray((2 - mask).astype(np.uint8), mode="P")  # an editor turned it
        indexed.putpalette([value for i in (2, 1, 0) for value in COLOURS[i]])
        (root / "masks").mkdir(exist_ok=True)
        indexed.save(root / f"masks/{stem}.png")
    return {"_target_": FOLDER, "images": "images", "masks": "masks", "vocabulary": NAMES,
            "palette": PALETTE}  # fmt: skip


add("1 bit", convert=np.bool_, keys={"vocabulary": NAMES[:2]}, classes=2)
add("0 and 255", convert=lambda m: (255 * m),
    keys={"vocabulary": NAMES[:2], "label_map": {255: 1}}, classes=2)  # fmt: skip
add("gif of greys, photos in tif", images="images/{}_training.tif",
    ids="1st_manual/{}_manual1.gif", convert=lambda m: (255 * m),
    keys={"vocabulary": NAMES[:2], "label_map": {255: 1}, "image_suffix": ".tif",
          "image_name": "{stem}_training", "mask_name": "{stem}_manual1", "mask_suffix": ".gif"},
    classes=2)  # fmt: skip


# --- arrays ---------------------------------------------------------------------------------


def arrays(root: Path, masks: Masks, convert: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    (root / "masks").mkdir()
    for stem, mask in masks.items():
        photo(root / f"images/{stem}.jpg")
        np.save(root / f"masks/{stem}.npy", convert(mask))
    return {"_target_": FOLDER, "images": "images", "masks": "masks", "vocabulary": NAMES,
            "mask_suffix": ".npy"}  # fmt: skip


add("npy", arrays, convert=np.uint8)
add("npy with -1 as void", arrays, convert=lambda m: np.where(m == 2, -1, m).astype(np.int64),
    keys={"label_map": {-1: "ignore"}, "vocabulary": NAMES[:2]}, truth=void(2))  # fmt: skip
add("npy of one channel", arrays, convert=lambda m: m[None].astype(np.int32))
add("npy of probabilities", arrays, convert=np.float64, error=r"\.npy: array of shape .* float64",
    guess=False)  # fmt: skip


# --- colours --------------------------------------------------------------------------------


add("colours", convert=coloured, keys={"palette": PALETTE})
add("colours as hex, in id order", convert=coloured,
    keys={"palette": ["#000000", "#800000", "#008040"]})  # fmt: skip
add("colours with alpha",
    convert=lambda m: coloured(m, {number: (*colour, 255) for number, colour in COLOURS.items()}),
    keys={"palette": PALETTE})  # fmt: skip


@case("colours, one of void", truth=void(2))
def _(root: Path, masks: Masks) -> dict[str, Any]:
    colours = COLOURS | {2: (255, 255, 255)}
    config = pairs(root, masks, convert=lambda m: coloured(m, colours))
    palette = {"background": [0, 0, 0], "cat": [128, 0, 0], "ignore": [255, 255, 255]}
    return config | {"palette": palette, "vocabulary": NAMES[:2]}


@case("CVAT's segmentation masks")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", coloured)
    rows = ["# label:color_rgb:parts:actions"]
    rows += [f"{name}:{','.join(map(str, PALETTE[name]))}::" for name in NAMES]
    write(root / "labelmap.txt", "\n".join(rows))
    write(root / "ImageSets/Segmentation/default.txt", "\n".join(masks))
    for stem, mask in masks.items():  # of instances, as CVAT writes it
        image(root / f"SegmentationObject/{stem}.png", coloured(mask)[..., ::-1])
    return config | {"palette": "labelmap.txt"}


@case("CamVid's class_dict.csv")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks, "val/{}.png", "val_labels/{}_L.png", coloured)
    rows = ["name,r,g,b", *(f"{n},{','.join(map(str, PALETTE[n]))}" for n in NAMES)]
    write(root / "class_dict.csv", "\n".join(rows))
    return config | {"palette": "class_dict.csv", "image_suffix": ".png", "mask_name": "{stem}_L"}


add("three equal channels", convert=lambda m: np.stack([m] * 3, -1), keys={"palette": "grey"})
add("colours in lossless WebP", ids="masks/{}.webp", convert=coloured, lossless=True, exact=True,
    keys={"palette": PALETTE, "mask_suffix": ".webp"})  # fmt: skip
add("a colour that is not in the palette", convert=coloured,
    keys={"palette": PALETTE | {"dog": [0, 100, 64]}}, guess=False,
    error=r"colour \[0, 128, 64\] on \d+ pixels .*nearest there is \[0, 100, 64\]")  # fmt: skip
add("colours without a palette", convert=coloured, error=r"holds colours.*palette: grey",
    guess=False)  # fmt: skip


# --- layouts --------------------------------------------------------------------------------


add("one folder, a.jpg and a.png", images="{}.jpg", ids="{}.png")
add("one folder, a.png and a_mask.png", images="all/{}.png", ids="all/{}_mask.png",
    keys={"image_suffix": ".png", "mask_name": "{stem}_mask"})  # fmt: skip
add("prefixes, two folders", images="images/img_{}.jpg", ids="masks/mask_{}.png",
    keys={"image_name": "img_{stem}", "mask_name": "mask_{stem}"})  # fmt: skip
add("prefixes, one folder", images="data/img_{}.png", ids="data/mask_{}.png",
    keys={"image_name": "img_{stem}", "mask_name": "mask_{stem}",
          "image_suffix": ".png"})  # fmt: skip


NESTED = {stem: f"{stem[0]}/{stem}" for stem in STEMS}


CITYSCAPES = {
    "recursive": True, "image_suffix": "_leftImg8bit.png",
    "mask_suffix": "_gtFine_labelTrainIds.png",
}  # fmt: skip
add("nested photos, flat masks", images="images/{1}/{0}.jpg",
    keys={"recursive": True, "mask_name": "{name}"}, names=NESTED)  # fmt: skip
add("both nested", images="images/{1}/{0}.jpg", ids="masks/{1}/{0}.png", keys={"recursive": True},
    names=NESTED)  # fmt: skip
add("Cityscapes' names", images="leftImg8bit/{1}/{0}_leftImg8bit.png",
    ids="gtFine/{1}/{0}_gtFine_labelTrainIds.png", keys=CITYSCAPES, names=NESTED)  # fmt: skip
add("a folder a photo", images="{}/image.jpg", ids="{}/mask.png",
    keys={"recursive": True, "mask_name": "{folder}/mask"},
    names={stem: f"{stem}/image" for stem in STEMS})  # fmt: skip


@case("Cityscapes' download, other masks beside", names=NESTED)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for kind, convert in (
        ("color", coloured), ("instanceIds", lambda m: (1000 * m).astype(np.uint16)),
        ("labelIds", lambda m: m + 7), ("labelTrainIds", unchanged),
    ):  # fmt: skip
        ids = f"gtFine/{{1}}/{{0}}_gtFine_{kind}.png"
        config = pairs(root, masks, "leftImg8bit/{1}/{0}_leftImg8bit.png", ids, convert)
    return config | CITYSCAPES


add("masks named by the photo's whole name", ids="masks/{}.jpg.png", keys={"mask_name": "{photo}"})


@case("mmsegmentation's img_dir and ann_dir")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    pairs(root, {"x9": masks["a1"]}, "img_dir/train/{}.jpg", "ann_dir/train/{}.png")
    config = pairs(root, masks, "img_dir/val/{}.jpg", "ann_dir/val/{}.png")
    return config | {"images": "img_dir/{split}", "masks": "ann_dir/{split}", "split": "val"}


@case("train/images and val/images")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    pairs(root, {"x9": masks["a1"]}, "train/images/{}.jpg", "train/masks/{}.png")
    config = pairs(root, masks, "val/images/{}.jpg", "val/masks/{}.png")
    return config | {"images": "{split}/images", "masks": "{split}/masks", "split": "val"}


@case("Roboflow's masks with _classes.csv")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for split, part in (("train", {"x9": masks["a1"]}), ("valid", masks)):
        pairs(root, part, f"{split}/{{}}.jpg", f"{split}/{{}}_mask.png")
        rows = ["Pixel Value, Class", *(f"{i}, {name}" for i, name in enumerate(NAMES))]
        write(root / split / "_classes.csv", "\n".join(rows))
    return {"_target_": FOLDER, "images": "{split}", "masks": "{split}", "split": "valid",
            "mask_name": "{stem}_mask", "vocabulary": "valid/_classes.csv"}  # fmt: skip


add("masks half as large", convert=lambda m: m[::2, ::2], keys={"mask_resize": "nearest"})
add("masks three times as large", convert=lambda m: np.kron(m, np.ones((3, 3))),
    keys={"mask_resize": "nearest"})  # fmt: skip
add("masks half as large, not asked for", convert=lambda m: m[::2, ::2],
    error="mask_resize: nearest takes the nearest")  # fmt: skip


@case("masks turned against EXIF", error="turn it as the photo's EXIF tag", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    config = pairs(root, masks)
    for stem in masks:
        photo(root / f"images/{stem}.jpg", exif=exif)
    return config


# --- lists ----------------------------------------------------------------------------------


def listed(root: Path, masks: Masks, text: str, file: str = "val.txt") -> dict[str, Any]:
    config = pairs(root, masks | {"x9": masks["a1"]})
    write(root / file, text)
    return config | {"split": file}


LISTS = {
    "a list of stems": "{}",
    "a list of file names": "{}.jpg",
    "a list of paths from the root": "images/{}.jpg",
    "a list of paths with a dot": "./images/{}.jpg",
    "a list of pairs": "images/{0}.jpg masks/{0}.png",
    "a list of pairs with a comma": "images/{0}.jpg,masks/{0}.png",
    "a list of pairs with a tab": "{0}.jpg\t{0}.png",
    "a list with backslashes": "images\\{}.jpg",
    "a list as VOC's augmented sets have": "/images/{0}.jpg /masks/{0}.png",
}
for title, line in LISTS.items():
    add(title, listed, text="\n".join(line.format(stem) for stem in STEMS))
add("a list with comments, CRLF and a BOM", listed,
    text="\ufeff# val\r\n\r\n" + "\r\n".join(STEMS) + "\r\n")  # fmt: skip
add("a csv with a header", listed, file="val.csv",
    text="index,image,mask\n" + "\n".join(
        f"{i},images/{s}.jpg,masks/{s}.png" for i, s in enumerate(STEMS)))  # fmt: skip
add("a json list", listed, file="val.json", text=json.dumps([f"{stem}.jpg" for stem in STEMS]))


add("a json list of pairs", listed, file="val.json",
    text=json.dumps([
        {"image": f"images/{s}.jpg", "mask": f"masks/{s}.png"} for s in STEMS]))  # fmt: skip


add("a list of names with 1 and -1", listed, text="\n".join(f"{stem}  1" for stem in STEMS),
    error="write one stem a line", guess=False)  # fmt: skip
add("a list of the photos of another set", listed, text="q1\nq2\n",
    error="have no photo.*one stem a line", guess=False)  # fmt: skip


@case("a csv whose ids are stems of other photos", guess=False,
      names={stem: str(index) for index, stem in enumerate(STEMS)})  # fmt: skip
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, {str(i): mask for i, mask in enumerate(masks.values())})
    rows = [f"{(i + 1) % 4};{i}.jpg;{i}.png;val" for i in range(4)]
    write(root / "val.csv", "\n".join(["id;image;mask;split", *rows]))
    return config | {"split": "val.csv"}


SEVERAL = zip(STEMS, ["train", "val"] * 2, strict=True)
add("a csv of several splits", listed, file="all.csv", guess=False,
    text="\n".join(["image,split", *(f"{stem}.jpg,{split}" for stem, split in SEVERAL)]),
    error="column 'split' has several values .train, val.")  # fmt: skip


@case("a list of numbers with labels", error="names no mask of this data set", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, {str(i): mask for i, mask in enumerate(masks.values())})
    write(root / "val.txt", "0 1\n1 1\n2 0\n")
    return config | {"split": "val.txt"}


@case("VOC's ImageSets")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    both = masks | {"x9": masks["a1"]}
    config = pairs(root, both, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    write(root / "ImageSets/Segmentation/val.txt", "\n".join(masks))
    write(root / "ImageSets/Segmentation/train.txt", "x9\n")
    return config | {"split_list": "ImageSets/Segmentation/{split}.txt", "split": "val"}


# --- annotation files -----------------------------------------------------------------------


def boxes(mask: np.ndarray) -> list[tuple[int, list[list[float]]]]:
    """Every block of a mask as its id and a rectangle's four corners."""
    result = []
    for row in range(0, mask.shape[0], 8):
        for column in range(0, mask.shape[1], 8):
            right, bottom = column + 8.0, row + 8.0
            corners = [[column, row], [right, row], [right, bottom], [column, bottom]]
            result.append((int(mask[row, column]), corners))
    return result


def labelme(root: Path, masks: Masks, shape: Callable[..., dict], where: str) -> dict[str, Any]:
    for stem, mask in masks.items():
        photo(root / f"images/{stem}.jpg")
        shapes = [shape(NAMES[number], corners) for number, corners in boxes(mask) if number]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg",
                   "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}  # fmt: skip
        write(root / where / f"{stem}.json", json.dumps(content))
    return {"_target_": FOLDER, "images": "images", "masks": where, "mask_suffix": ".json",
            "vocabulary": NAMES}  # fmt: skip


def polygon(label: str, corners: list, kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": corners, "group_id": None, "shape_type": kind, "flags": {}}


add("Labelme beside the photos", labelme, shape=polygon, where="images")


add("Labelme in a folder, rectangles", labelme, where="json",
    shape=lambda label, c: polygon(label, [c[2], c[0]], "rectangle"))  # fmt: skip


@case("Labelme with bitmaps")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    stored = io.BytesIO()
    Image.fromarray(np.ones((8, 8), bool)).save(stored, "PNG")
    bitmap = base64.b64encode(stored.getvalue()).decode()

    def shape(label: str, corners: list) -> dict[str, Any]:
        return {"label": label, "points": [corners[0], corners[2]], "shape_type": "mask",
                "mask": bitmap}  # fmt: skip

    return labelme(root, masks, shape, "json")


add("Labelme, background and ignored shapes", labelme,
    shape=lambda label, c: polygon(["_background_", "cat", "__ignore__"][NAMES.index(label)], c),
    where="json", keys={"vocabulary": NAMES[:2], "label_map": {"__ignore__": "ignore"}},
    truth=void(2))  # fmt: skip
add("Labelme, uncovered pixels ignored", labelme, shape=polygon, where="json",
    keys={"vocabulary": NAMES[1:], "unlabelled": "ignore"},
    truth=lambda m: np.where(m == 0, 255, m - 1), guess=False)  # fmt: skip
add("Labelme, what is uncovered is not said", labelme, shape=polygon, where="json",
    keys={"vocabulary": NAMES[1:]}, guess=False,
    error="unlabelled: ignore, or unlabelled: <name")  # fmt: skip
add("Labelme, a class that is not in the vocabulary", labelme,
    shape=lambda label, c: polygon(label.replace("dog", "dgo"), c), where="json", guess=False,
    error=r"unknown class in .*a1\.json 'dgo'; did you mean dog.*label_map")  # fmt: skip


add("Labelme, a line", labelme, where="json", shape=lambda _, c: polygon("cat", c[:2], "line"),
    error="shape 'line' of label 'cat' has no area", guess=False)  # fmt: skip


def supervisely(root: Path, masks: Masks, thing: Callable[..., dict]) -> dict[str, Any]:
    for stem, mask in masks.items():
        photo(root / f"ds0/img/{stem}.jpg")
        objects = [thing(NAMES[number], corners) for number, corners in boxes(mask) if number]
        content = {"description": "", "tags": [], "objects": objects,
                   "size": {"height": SIZE[0], "width": SIZE[1]}}  # fmt: skip
        write(root / f"ds0/ann/{stem}.jpg.json", json.dumps(content))
    classes = [{"title": name, "shape": "any", "color": "#FF0000"} for name in NAMES[1:]]
    write(root / "meta.json", json.dumps({"classes": classes, "tags": []}))
    return {"_target_": FOLDER, "images": "ds0/img", "masks": "ds0/ann", "mask_suffix": ".json",
            "mask_name": "{photo}", "vocabulary": NAMES}  # fmt: skip


def packed(bitmap: np.ndarray) -> str:
    """As supervisely's own mask_2_base64: a png with a transparent colour, deflated."""
    picture = Image.fromarray(bitmap.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    stored = io.BytesIO()
    picture.save(stored, "PNG", transparency=0, optimize=0)
    return base64.b64encode(zlib.compress(stored.getvalue())).decode()


@case("Supervisely's bitmaps")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    def thing(label: str, corners: list) -> dict[str, Any]:
        origin = [int(value) for value in corners[0]]
        return {"classTitle": label, "geometryType": "bitmap",
                "bitmap": {"data": packed(np.ones((8, 8), bool)), "origin": origin}}  # fmt: skip

    return supervisely(root, masks, thing)


@case("Supervisely's polygons with holes", truth=lambda m: with_holes(m))
def _(root: Path, masks: Masks) -> dict[str, Any]:
    def thing(label: str, corners: list) -> dict[str, Any]:
        x, y = corners[0]
        hole = [[x + 2, y + 2], [x + 4, y + 2], [x + 4, y + 5], [x + 2, y + 5]]
        return {"classTitle": label, "geometryType": "polygon",
                "points": {"exterior": corners, "interior": [hole]}}  # fmt: skip

    return supervisely(root, masks, thing)


def with_holes(mask: np.ndarray) -> np.ndarray:
    result = mask.copy()
    for row in range(0, SIZE[0], 8):
        for column in range(0, SIZE[1], 8):
            result[row + 2 : row + 5, column + 2 : column + 4] = 0
    return result


def coco_json(
    root: Path, masks: Masks, region: Callable[..., Any], images: str = "images",
    annotations: str = "instances.json", ids: tuple[int, ...] = (0, 7, 3), **more: Any,
) -> dict[str, Any]:  # fmt: skip
    listed, instances = [], []
    for number, (stem, mask) in enumerate(masks.items(), start=40):
        photo(root / images / f"{stem}.jpg")
        listed.append({"id": number, "file_name": f"{stem}.jpg", "height": SIZE[0],
                       "width": SIZE[1]})  # fmt: skip
        for index, corners in boxes(mask):
            if index:
                instances.append({"id": len(instances), "image_id": number, "iscrowd": 0,
                                  "category_id": ids[index], "area": 64, "bbox": [0, 0, 1, 1],
                                  "segmentation": region(corners), **more})  # fmt: skip
    categories = [{"id": ids[2], "name": "dog", "supercategory": "x"},
                  {"id": ids[1], "name": "cat", "supercategory": "x"}]  # fmt: skip
    content = {"images": listed, "annotations": instances, "categories": categories}
    write(root / annotations, json.dumps(content))
    return {"_target_": COCO, "images": images, "annotations": annotations, "vocabulary": NAMES}


def flat(corners: list) -> list[list[float]]:
    return [[value for corner in corners for value in corner]]


def runs(corners: list) -> dict[str, Any]:
    region = np.zeros(SIZE, np.uint8)
    (left, top), (right, bottom) = corners[0], corners[2]
    region[int(top) : int(bottom), int(left) : int(right)] = 1
    encoded = coco.encode(np.asfortranarray(region))
    return encoded | {"counts": encoded["counts"].decode()}


def plain_runs(corners: list) -> dict[str, Any]:
    (left, top), (right, bottom) = corners[0], corners[2]
    region = np.zeros(SIZE, int)
    region[int(top) : int(bottom), int(left) : int(right)] = 1
    values = region.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], values, [1 - values[-1]]])))
    counts = np.diff(np.concatenate([[0], edges]))
    return {"size": list(SIZE), "counts": counts.tolist()}


add("COCO's polygons of own categories", coco_json, region=flat)
add("COCO's run lengths, packed", coco_json, region=runs)
add("COCO's run lengths of a crowd, not packed", coco_json, region=plain_runs, iscrowd=1)
add("COCO, crowds ignored", coco_json, region=plain_runs, iscrowd=1, keys={"crowd": "ignore"},
    truth=lambda m: np.where(m > 0, 255, m), guess=False)  # fmt: skip


add("COCO without a vocabulary: the json's order of ids", coco_json, region=flat,
    keys={"vocabulary": None}, truth=remapped({1: 2, 2: 1}), guess=False)  # fmt: skip
add("COCO, uncovered pixels ignored", coco_json, region=flat,
    keys={"vocabulary": NAMES[1:], "unlabelled": "ignore"},
    truth=lambda m: np.where(m == 0, 255, m - 1), guess=False)  # fmt: skip


def nested_squares(root: Path, masks: Masks, overlap: str) -> dict[str, Any]:
    """On every photo a large cat that the json names last, over a small dog."""
    config = coco_json(root, masks, flat)
    content = json.loads((root / "instances.json").read_bytes())
    square = [[0, 0, 16, 0, 16, 16, 0, 16]]
    content["annotations"] = [
        {"id": 2 * photo["id"] + n, "image_id": photo["id"], "category_id": category,
         "iscrowd": 0, "area": area, "segmentation": region}
        for photo in content["images"]
        for n, (category, area, region) in enumerate(
            [(3, 16, [[2, 2, 6, 2, 6, 6, 2, 6]]), (7, 256, square)])
    ]  # fmt: skip
    write(root / "instances.json", json.dumps(content))
    return config | {"overlap": overlap}


def squares(mask: np.ndarray, small_seen: bool) -> np.ndarray:
    result = np.zeros_like(mask)
    result[:16, :16] = 1
    if small_seen:
        result[2:6, 2:6] = 2
    return result


add("COCO, the smallest on top", nested_squares, overlap="smallest",
    truth=lambda m: squares(m, True))  # fmt: skip
add("COCO, the last on top", nested_squares, overlap="last", truth=lambda m: squares(m, False),
    guess=False)  # fmt: skip


@case("Roboflow's COCO export")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for split, part in (("train", {"x9": masks["a1"]}), ("valid", masks)):
        config = coco_json(root, part, flat, split, f"{split}/_annotations.coco.json")
    return config | {"images": "{split}", "annotations": "{split}/_annotations.coco.json",
                     "split": "valid"}  # fmt: skip


@case("COCO with jsons of two splits")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for split, part in (("train", {"x9": masks["a1"]}), ("val", masks)):
        config = coco_json(root, part, flat, f"{split}2017", f"annotations/own_{split}2017.json")
    return config | {"images": "{split}2017", "annotations": "annotations/own_{split}2017.json",
                     "split": "val"}  # fmt: skip


add("COCO, another project's categories", coco_json, region=flat,
    keys={"vocabulary": ["background", "scratch", "dent"]}, guess=False,
    error=r"unknown class in category of .*instances\.json 'dog'")  # fmt: skip
add("COCO with boxes alone", coco_json, region=lambda corners: [],
    error="annotation 0: has no segmentation", guess=False)  # fmt: skip


def changed_json(root: Path, masks: Masks, change: Callable[[Any], None]) -> dict[str, Any]:
    config = coco_json(root, masks, flat)
    content = json.loads((root / "instances.json").read_bytes())
    change(content)
    write(root / "instances.json", json.dumps(content))
    return config


def numbers_as_texts(content: Any) -> None:
    for one in content["annotations"]:
        one |= {"iscrowd": "0", "area": "64"}


DAMAGED_JSONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "two photos of one id": (
        lambda c: c["images"][1].update(id=c["images"][0]["id"]), "two photos",
    ),
    "two categories of one id": (
        lambda c: c["categories"][1].update(id=c["categories"][0]["id"]), "two categories",
    ),
    "a corner that is no number": (
        lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, float("nan")),
        "corners must be finite",
    ),
    "polygons in shares of the photo": (
        lambda c: c["annotations"][0].update(segmentation=[[0, 0, 0.5, 0, 0.5, 0.5]]),
        "not shares of the photo",
    ),
    "ids as texts": (
        lambda c: c["annotations"][0].update(image_id="1"), "there is no photo of id '1'",
    ),
}  # fmt: skip
for title, (change, message) in DAMAGED_JSONS.items():
    add(f"COCO, {title}", changed_json, change=change, error=message, guess=False)
add("COCO, iscrowd and area as texts", changed_json, change=numbers_as_texts, guess=False,
    keys={"crowd": "ignore"})  # fmt: skip
add("COCO with a category Background, without a vocabulary", changed_json, guess=False,
    change=lambda c: c["categories"].append({"id": 0, "name": "Background"}),
    keys={"vocabulary": None, "label_map": {"cat": "cat"}},
    truth=remapped({1: 2, 2: 1}))  # fmt: skip
add("colours with a label_map", convert=coloured, keys={"palette": PALETTE, "label_map": {2: 1}},
    error="palette says the class of each colour", guess=False)  # fmt: skip


# --- tables ---------------------------------------------------------------------------------


def stored(values: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def rows(masks: Masks, bare: bool = False) -> pa.Table:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    photos = [stored(noise, "JPEG") for _ in masks]
    truths = [stored(mask.astype(np.uint8), "PNG") for mask in masks.values()]
    if not bare:
        photos = [{"bytes": content, "path": None} for content in photos]
        truths = [{"bytes": content, "path": "x.png"} for content in truths]
    return pa.table({"image": photos, "label": truths, "name": list(masks)})


def parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


TABLE_KEYS = {"_target_": TABLE, "vocabulary": NAMES}


def one_table(
    root: Path,
    masks: Masks,
    bare: bool = False,
    columns: Sequence[str] = ("image", "label", "name"),
) -> dict[str, Any]:
    table = rows(masks, bare).rename_columns(columns)
    parquet(root / "data.parquet", table.drop_columns([c for c in columns if c == "-"]))
    return TABLE_KEYS


add("parquet", one_table)
add("parquet of bare bytes", one_table, bare=True)
add("parquet, other names of columns", one_table, columns=["img", "segmentation_mask", "file_name"])
add("parquet, columns named by the yaml", one_table, columns=["left", "right", "name"],
    keys={"image": "left", "mask": "right"}, guess=False)  # fmt: skip
add("parquet, no column of masks", one_table, columns=["image", "-", "name"],
    error="dataset.mask must name the column", guess=False)  # fmt: skip


@case(
    "parquet, 0 and 255 without a label_map", classes=2, error=r"label_map: \{255: 1\}", guess=False
)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    one_table(root, {stem: 255 * mask for stem, mask in masks.items()})
    return TABLE_KEYS | {"vocabulary": NAMES[:2]}


@case("parquet of several shards and splits")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    parquet(root / "data/train-00000-of-00001.parquet", rows({"x9": masks["a1"]}))
    for index, part in enumerate((STEMS[:1], STEMS[1:])):
        table = rows({stem: masks[stem] for stem in part})
        parquet(root / f"data/validation-0000{index}-of-00002.parquet", table)
    return TABLE_KEYS | {"split": "validation"}


@case("parquet in a folder a split")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    parquet(root / "default/train/0000.parquet", rows({"x9": masks["a1"]}))
    parquet(root / "default/test/0000.parquet", rows(masks))
    return TABLE_KEYS | {"split": "test"}


@case("parquet of paths alone", error="holds the path a.jpg without the bytes", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    cells = [{"bytes": None, "path": "a.jpg"} for _ in masks]
    table = rows(masks).set_column(0, "image", pa.array(
        cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))  # fmt: skip
    parquet(root / "data.parquet", table)
    return TABLE_KEYS


@case("a folder of save_to_disk")
def _(root: Path, masks: Masks) -> dict[str, Any]:
    for split, part in (("train", {"x9": masks["a1"]}), ("validation", masks)):
        path = root / split / "data-00000-of-00001.arrow"
        path.parent.mkdir()
        table = rows(part)
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
        write(root / split / "state.json", "{}")
    write(root / "dataset_dict.json", json.dumps({"splits": ["train", "validation"]}))
    return TABLE_KEYS | {"split": "validation"}


# --- what is refused ------------------------------------------------------------------------

LOSSY = (
    ("masks in JPEG", "masks/{}.jpg", "JPEG", "JPEG", {}),
    ("JPEG under a png's name", "masks/{}.png", "JPEG", "JPEG", {"quality": 100, "subsampling": 0}),
    ("tif with JPEG inside", "masks/{}.tif", "TIFF with jpeg", "TIFF", {"compression": "jpeg"}),
    ("lossy JPEG 2000", "masks/{}.jp2", "JPEG2000", "JPEG2000",
     {"irreversible": True, "quality_layers": [20]}),
    ("lossy WebP", "masks/{}.webp", "lossy WebP", "WEBP", {"quality": 50}),
)  # fmt: skip
for title, place, shown, kind, settings in LOSSY:
    add(title, ids=place, convert=lambda m: 100 * m, kind=kind, guess=False, **settings,
        keys={"mask_suffix": Path(place).suffix},
        error=f"is {shown}.*changes ids where regions meet.*save it as PNG")  # fmt: skip
add("0 and 255 without a label_map", convert=lambda m: (255 * m), keys={"vocabulary": NAMES[:2]},
    classes=2, error=r"label_map: \{255: 1\}")  # fmt: skip


@case("photos of other suffixes left out", error=r"image_suffix: \[\.jpg, \.png\]", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks)
    photo(root / "images/x9.png")
    image(root / "masks/x9.png", masks["a1"].astype(np.uint8))
    return config


@case("a.jpg beside a.jpeg", error="are both photo 'a1' of mask", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks)
    photo(root / "images/a1.jpeg")
    return config | {"image_suffix": [".jpg", ".jpeg"]}


@case("a photo without a mask", error="1 of 4 samples have no mask: b1", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks)
    (root / "masks/b1.png").unlink()
    return config


@case("a dangling link", error=r"b1\.png: a link to .*gone.png, where nothing is", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks)
    (root / "masks/b1.png").unlink()
    os.symlink(root / "gone.png", root / "masks/b1.png")
    return config


@case("an empty file", error=r"b1\.png: the file is empty", guess=False)
def _(root: Path, masks: Masks) -> dict[str, Any]:
    config = pairs(root, masks)
    (root / "masks/b1.png").write_bytes(b"")
    return config


add("ids beyond the vocabulary", keys={"vocabulary": NAMES[:2]},
    error=r"id 2 on \d+ pixels .*label_map", guess=False)  # fmt: skip
add("847 classes with 255 as void", convert=np.uint16, keys={"vocabulary": MANY}, classes=847,
    guess=False, error=r"must be in 847\.\.65535, for 255 is one of the 847 classes")  # fmt: skip
