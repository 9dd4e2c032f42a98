"""Benchmarks from their original downloads into the layout of conf/dataset/*.yaml.

Each conversion takes the folder the downloads were unpacked in and the data set's root, and says
what it did. Photos are hard-linked where the file system allows it, else copied; masks are
written whole or not at all, so an interrupted conversion is simply started again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.coco_ids import CATEGORIES, THINGS
from sclip_lab.data.coco_object import instances_to_mask
from sclip_lab.data.decode import LARGEST_JSON, LARGEST_LIST, read_mask, regular_file
from sclip_lab.data.paths import below
from sclip_lab.data.vocabulary import Vocabulary

# Cityscapes: labelIds in the order of the 19 evaluated classes (labels.py of its scripts).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Pascal Context: ids of the 59 frequent classes among the 459 of labels.txt, in the order of
# sclip_context59.txt (both are alphabetical).
CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip

COCO_IMAGES = ("images/val2017", "val2017", ".")
COCO_MAPS = (
    "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017", "annotations/val2017",
    "pixelmaps/val2017", "val2017", ".",
)  # fmt: skip
COCO_STEM = "[0-9]" * 12  # leaves out *_labelTrainIds.png of an earlier conversion


def prepare(name: str, source: Path, root: Path) -> str:
    """Bring data set ``name`` into its layout.

    Args:
        name: as in conf/dataset.
        source: where the original downloads were unpacked.
        root: the data set's root.

    Returns:
        What was done, in words.

    Raises:
        LabError: unknown name, or a part of the download that is missing or damaged.
    """
    if name not in CONVERSIONS:
        raise unknown("data set to prepare", name, CONVERSIONS)
    if not source.is_dir():
        raise LabError(f"--from {source}: no such folder; unpack the downloads there first")
    try:
        return CONVERSIONS[name](source, root)
    except OSError as error:
        raise LabError(f"{root}: cannot be written ({error})") from error


def coco_stuff164k(source: Path, root: Path) -> str:
    """stuffthingmaps (category id - 1, 255 unlabelled) to 0..170, 255."""
    table = {category - 1: index for index, category in enumerate(CATEGORIES)} | {255: 255}
    return _coco_maps(source, root, table, "_labelTrainIds.png")


def coco_object(source: Path, root: Path) -> str:
    """stuffthingmaps, else instances_val2017.json, to 0 background and 1..80 objects.

    The maps are what SCLIP, TCL and GroupViT convert; the json serves those who have no maps.
    """
    objects = {category - 1: index for index, category in enumerate(THINGS, start=1)}
    stuff = {category - 1: 0 for category in CATEGORIES if category not in THINGS}
    if _search(source, COCO_MAPS, f"{COCO_STEM}.png"):
        return _coco_maps(source, root, {**stuff, **objects, 255: 0}, "_instanceTrainIds.png")
    return _coco_instances(source, root)


def coco_stuff10k(source: Path, root: Path) -> str:
    """annotations/*.mat (field S: category id, 0 unlabelled) of the test list to 0, 1..171."""
    table = {0: 0} | {category: index for index, category in enumerate(CATEGORIES, start=1)}
    listed = _search(source, ("imageLists", "imagesLists"), "test.txt", "test list")[0]
    stems = _stems(listed)
    images = _search(source, ("images",), "*.jpg", "photos")[0].parent
    mats = _search(source, ("annotations",), "*.mat", "labels")[0].parent

    def convert(stem: str) -> None:
        mask = remap(read_mat(mats / f"{stem}.mat", "S"), table, mats / f"{stem}.mat")
        save_mask(mask, root / f"annotations/test2014/{stem}_labelTrainIds.png")
        place(images / f"{stem}.jpg", root / f"images/test2014/{stem}.jpg")

    _each(convert, stems, "COCO-Stuff 10k")
    return f"{root}: {len(stems)} photos and masks of the test list {images.parent}"


def context(source: Path, root: Path) -> str:
    """The 459-class labels (field LabelMap) to 0 background and 1..59; the rest is background.

    The split is ImageSets/SegmentationContext/val.txt where there is one (the detail release's,
    5,104 photos), else VOC2010's own ImageSets/Main/val.txt (5,105).
    """
    voc = ("VOCdevkit/VOC2010", "VOC2010", ".")
    images = _search(source, [f"{v}/JPEGImages" for v in voc], "*.jpg", "photos")[0].parent
    mats = _search(source, ["trainval", *(f"{v}/trainval" for v in voc), "."], "*.mat", "labels")
    labels = _search(source, [*voc, "trainval"], "labels.txt") or [mats[0].parent / "labels.txt"]
    if labels[0].is_file():
        _check_context_names(labels[0])
    lists = [f"{v}/ImageSets/{k}" for k in ("SegmentationContext", "Main") for v in voc]
    split = _search(source, lists, "val.txt", "split list")[0]
    stems = _stems(split)
    table = dict.fromkeys(range(460), 0) | {raw: i for i, raw in enumerate(CONTEXT_IDS, start=1)}

    def convert(stem: str) -> None:
        path = mats[0].parent / f"{stem}.mat"
        save_mask(
            remap(read_mat(path, "LabelMap"), table, path),
            root / f"SegmentationClassContext/{stem}.png",
        )
        place(images / f"{stem}.jpg", root / f"JPEGImages/{stem}.jpg")

    _each(convert, stems, "Pascal Context")
    place(split, root / "ImageSets/SegmentationContext/val.txt")
    return f"{root}: {len(stems)} photos and masks of the split {split}"


def cityscapes(source: Path, root: Path) -> str:
    """gtFine *_labelIds.png to *_labelTrainIds.png, 0..18 and 255 for what is not evaluated."""
    table = dict.fromkeys(range(256), 255) | {raw: i for i, raw in enumerate(CITYSCAPES_IDS)}
    masks = _search(source, ("gtFine/val", "gtFine_trainvaltest/gtFine/val"), "*/*_labelIds.png",
                    "labels")  # fmt: skip
    photos = _search(source, ("leftImg8bit/val", "leftImg8bit_trainvaltest/leftImg8bit/val"),
                     "*/*_leftImg8bit.png", "photos")  # fmt: skip

    def convert(path: Path) -> None:
        name = path.name.replace("_labelIds.png", "_labelTrainIds.png")
        mask = remap(read_mask(path), table, path)
        save_mask(mask, root / "gtFine/val" / path.parent.name / name)

    _each(convert, masks, "Cityscapes")
    for photo in photos:
        place(photo, root / "leftImg8bit/val" / photo.parent.name / photo.name)
    return f"{root}: {len(photos)} photos, {len(masks)} masks"


def voc2012(source: Path, root: Path) -> str:
    """Nothing to convert: the root becomes a link to the download."""
    return _link(source, root, ("VOCdevkit/VOC2012", "VOC2012", "."), "SegmentationClass/*.png")


def ade20k(source: Path, root: Path) -> str:
    """Nothing to convert: the root becomes a link to the download."""
    return _link(source, root, ("ADEChallengeData2016", "."), "annotations/validation/*.png")


CONVERSIONS: dict[str, Callable[[Path, Path], str]] = {
    "voc21": voc2012,
    "voc20": voc2012,
    "context60": context,
    "context59": context,
    "coco_object": coco_object,
    "coco_stuff164k": coco_stuff164k,
    "coco_stuff10k": coco_stuff10k,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
}


def remap(raw: np.ndarray, table: Mapping[int, int], path: Path) -> np.ndarray:
    """Ids through a table.

    Args:
        raw: (height, width) integers.
        table: {id in the file: id}; every id of the file must be in it.
        path: named in the error.

    Returns:
        (height, width) uint8.
    """
    values, inverse = np.unique(raw, return_inverse=True)
    strange = [value for value in values.tolist() if value not in table]
    if strange:
        raise LabError(f"{path}: ids {strange[:5]} do not occur in this data set's format")
    return np.array([table[v] for v in values.tolist()], np.uint8)[inverse].reshape(raw.shape)


def read_mat(path: Path, field: str) -> np.ndarray:
    """(height, width) integers: one matrix of a MATLAB file."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[field])
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise LabError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    if field not in content:
        raise LabError(f"{path}: holds no matrix '{field}'; is it this data set's label file?")
    return np.asarray(content[field]).astype(np.int64)


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a png of ids, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(mask).save(partial, "PNG")
    os.replace(partial, path)


def place(source: Path, target: Path) -> None:
    """Bring a file to where it is wanted, by a hard link if possible; it may be there already."""
    if not source.is_file():
        raise LabError(f"{source}: no such file; the download is incomplete")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if os.path.samefile(source, target):
            return
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _coco_maps(source: Path, root: Path, table: Mapping[int, int], suffix: str) -> str:
    photos = _search(source, COCO_IMAGES, "*.jpg", "photos")
    maps = _search(source, COCO_MAPS, f"{COCO_STEM}.png", "stuffthingmaps")

    def convert(path: Path) -> None:
        mask = remap(read_mask(path), table, path)
        save_mask(mask, root / "annotations/val2017" / f"{path.stem}{suffix}")

    _each(convert, maps, "masks")
    for photo in photos:
        place(photo, root / "images/val2017" / photo.name)
    return f"{root}: {len(photos)} photos, {len(maps)} masks from the pixel maps {maps[0].parent}"


def _coco_instances(source: Path, root: Path) -> str:
    path = _search(source, ("annotations", "."), "instances_val2017.json",
                   "stuffthingmaps or annotations")[0]  # fmt: skip
    photos = _search(source, COCO_IMAGES, "*.jpg", "photos")
    regular_file(path, "COCO instances", LARGEST_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images, annotations = content["images"], content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path}: cannot be read as COCO instances ({error!r})") from error
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for entry in annotations:
        by_image.setdefault(entry["image_id"], []).append(entry)

    def convert(image: Mapping[str, Any]) -> None:
        mask = instances_to_mask(by_image.get(image["id"], []), image["height"], image["width"])
        stem = below(photos[0].parent, image["file_name"], path).stem
        save_mask(mask, root / f"annotations/val2017/{stem}_instanceTrainIds.png")

    _each(convert, images, "masks")
    for photo in photos:
        place(photo, root / "images/val2017" / photo.name)
    return f"{root}: {len(photos)} photos, {len(images)} masks from {path}"


def _check_context_names(path: Path) -> None:
    """The 459-class list must give our ids the names we expect."""
    names = dict(line.split(":", 1) for line in _lines(path) if ":" in line)
    for raw, name in zip(CONTEXT_IDS, Vocabulary.named("sclip_context59").names, strict=True):
        found = names.get(str(raw), "nothing").strip()
        if found != name:
            raise LabError(f"{path}: id {raw} is '{found}', expected '{name}'; another release?")


def _link(source: Path, root: Path, places: Iterable[str], pattern: str) -> str:
    folders = [source / place for place in places]
    found = next((f for f in folders if next(f.glob(pattern), None)), None)
    if found is None:
        looked = ", ".join(str(folder / pattern) for folder in folders)
        raise LabError(f"nothing of this data set below {source}; looked for {looked}")
    if root.exists():
        if os.path.samefile(root, found):
            return f"{root}: already in place, nothing to convert"
        raise LabError(f"{root} is there already and is not {found}; remove it or choose --to")
    root.parent.mkdir(parents=True, exist_ok=True)
    root.symlink_to(found.resolve(), target_is_directory=True)
    return f"{root}: link to {found.resolve()}, nothing to convert"


def _search(
    source: Path, places: Iterable[str], pattern: str, what: str | None = None
) -> list[Path]:
    """Files that match in the first place that has any, sorted; LabError if ``what`` is given
    and no place has one."""
    places = list(places)
    for place_ in places:
        with suppress(OSError):
            if found := sorted((source / place_).glob(pattern)):
                return found
    if what is None:
        return []
    looked = ", ".join(os.path.normpath(source / place_ / pattern) for place_ in places)
    raise LabError(f"no {what} found; looked for {looked}")


def _stems(path: Path) -> list[str]:
    """The names of a list, none of which leads out of a folder."""
    stems = _lines(path)
    for stem in stems:
        below(path.parent, stem, path)
    return stems


def _lines(path: Path) -> list[str]:
    regular_file(path, "list", LARGEST_LIST)
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _each(function: Callable[[Any], None], items: Sequence[Any], title: str) -> None:
    """Call the function on each item, in threads (decoding and encoding release the lock)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(function, items)
        try:
            for _ in tqdm(done, total=len(items), desc=title, unit="mask", delay=1):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
