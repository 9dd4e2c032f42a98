"""Convert the original downloads of benchmarks into the layout of conf/dataset/*.yaml.

Each conversion takes the folder of the unpacked downloads and the data set's root, and says what it
did. Photos are hard-linked if the file system allows it, else copied. A mask is written whole or
not at all, so an interrupted conversion is simply started again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.coco_json import CocoJson
from sclip_lab.data.conversion import (
    Incomplete,
    for_each,
    lines_of,
    link,
    place,
    read_mat,
    remap,
    save_mask,
    search,
    stems_of,
)
from sclip_lab.data.decode import json_content, read_mask
from sclip_lab.data.polygons import segmentation
from sclip_lab.data.vocabulary import Vocabulary

# COCO's category ids are 1..90 things, 91..182 stuff; eleven things were never released (Caesar et
# al., COCO-Stuff, CVPR 2018, and the categories of instances_val2017.json).
UNRELEASED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
THINGS = tuple(i for i in range(1, 91) if i not in UNRELEASED)  # 80
CATEGORIES = THINGS + tuple(range(92, 183))  # 171, in the order every benchmark numbers them

# Cityscapes: labelIds in the order of the 19 evaluated classes (labels.py of its scripts).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Pascal Context: ids of the 59 frequent classes among the 459 of labels.txt, in the order of
# sclip_context59.txt (both are alphabetical).
CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip

VOC2010 = ("VOCdevkit/VOC2010", "VOC2010", ".")
VOC2012 = ("VOCdevkit/VOC2012", "VOC2012", ".")
COCO_JSON = ("annotations", ".")
COCO_IMAGES = ("images/val2017", "val2017", ".")
COCO_MAPS = (
    "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017", "annotations/val2017",
    "pixelmaps/val2017", "val2017", ".",
)  # fmt: skip
COCO_STEM = "[0-9]" * 12  # leaves out *_labelTrainIds.png of an earlier conversion


def prepare(name: str, source: Path, root: Path) -> str:
    """Convert the unpacked downloads in ``source`` to the data set at ``root``; say what was done.

    ``name`` is a key of ``CONVERSIONS``.

    Raises:
        LabError: a part of the download is missing or damaged.
    """
    if not source.is_dir():
        raise LabError(f"--from {source}: no such folder; unpack the downloads there first")
    convert, places, converted = CONVERSIONS[name]
    looked = ", ".join(str(source / place / converted) for place in places)
    absent = f"nothing of this data set below {source}; looked for {looked}"
    try:
        if convert is not None:
            try:
                return convert(source, root)
            except Incomplete as error:
                absent = str(error)
        return link(source, root, places, converted, absent)
    except OSError as error:
        raise LabError(f"{root}: cannot be written ({error})") from error


def coco_stuff164k(source: Path, root: Path) -> str:
    """Convert stuffthingmaps (category id - 1, 255 unlabelled) to 0..170 and 255."""
    table = {category - 1: index for index, category in enumerate(CATEGORIES)} | {255: 255}
    return _coco_maps(source, root, table, "_labelTrainIds.png")


def coco_object(source: Path, root: Path) -> str:
    """Write masks with 0 for background and 1 .. 80 for objects.

    They are made from stuffthingmaps, as SCLIP, TCL and GroupViT do, or from
    instances_val2017.json where there are no maps.
    """
    objects = {category - 1: index for index, category in enumerate(THINGS, start=1)}
    stuff = {category - 1: 0 for category in CATEGORIES if category not in THINGS}
    table, suffix = {**stuff, **objects, 255: 0}, "_instanceTrainIds.png"
    json_is_there = search(source, COCO_JSON, "instances_val2017.json")
    if search(source, COCO_MAPS, f"{COCO_STEM}.png") or not json_is_there:
        return _coco_maps(source, root, table, suffix)
    return _coco_instances(source, root, json_is_there[0])


def coco_stuff10k(source: Path, root: Path) -> str:
    """Convert annotations/*.mat of the test list (S: category ids, 0 unlabelled) to 0, 1..171."""
    mats = search(source, ("annotations",), "*.mat", "labels")[0].parent
    table = {0: 0} | {category: index for index, category in enumerate(CATEGORIES, start=1)}
    stem_list = search(source, ("imageLists", "imagesLists"), "test.txt", "test list")[0]
    stems = stems_of(stem_list)
    images = search(source, ("images",), "*.jpg", "photos")[0].parent

    def convert(stem: str) -> None:
        mask = remap(read_mat(mats / f"{stem}.mat", "S"), table, mats / f"{stem}.mat")
        save_mask(mask, root / f"annotations/test2014/{stem}_labelTrainIds.png")
        place(images / f"{stem}.jpg", root / f"images/test2014/{stem}.jpg")

    for_each(convert, stems, "COCO-Stuff 10k")
    return f"{root}: {len(stems)} photos and masks of the test list {images.parent}"


def context(source: Path, root: Path) -> str:
    """Convert the 459-class labels to 0 background and 1..59; other classes become background.

    The labels are one .mat a photo (field LabelMap), else the detail release's
    trainval_merged.json. The photos are those of ImageSets/SegmentationContext/val.txt if there is
    one (the detail release's, 5,104 photos). Without it they are the json's val phase, or with .mat
    files those of VOC2010's own ImageSets/Main/val.txt (5,105).
    """
    mats = search(source, ["trainval", *(f"{v}/trainval" for v in VOC2010), "."], "*.mat")
    merged = search(source, VOC2010, "trainval_merged.json")
    if not mats and not merged:
        raise Incomplete(
            f"no labels found; looked for {source}/trainval/*.mat, trainval_merged.json and "
            "SegmentationClassContext/*.png, also in VOC2010 and VOCdevkit/VOC2010"
        )
    images = search(source, [f"{v}/JPEGImages" for v in VOC2010], "*.jpg", "photos")[0].parent
    if mats:
        names = search(source, [*VOC2010, "trainval"], "labels.txt") or [
            mats[0].parent / "labels.txt"
        ]
        if names[0].is_file():
            _check_context_names(names[0])
    regions = {} if mats else _context_regions(merged[0])
    lists = [f"{v}/ImageSets/{k}" for k in ("SegmentationContext", "Main") for v in VOC2010]
    split = search(source, lists[:3] if regions else lists, "val.txt", "" if regions else "list")
    stems = stems_of(split[0]) if split else sorted(regions)
    table = dict.fromkeys(range(460), 0) | {raw: i for i, raw in enumerate(CONTEXT_IDS, start=1)}

    def convert(stem: str) -> None:
        if mats:
            path = mats[0].parent / f"{stem}.mat"
            raw = read_mat(path, "LabelMap")
        else:
            path = merged[0]
            if stem not in regions:
                raise LabError(f"{path}: has no annotation of {stem}, which {split[0]} names")
            raw = regions[stem]()
        save_mask(remap(raw, table, path), root / f"SegmentationClassContext/{stem}.png")
        place(images / f"{stem}.jpg", root / f"JPEGImages/{stem}.jpg")

    for_each(convert, stems, "Pascal Context")
    target = root / "ImageSets/SegmentationContext/val.txt"
    if split:
        place(split[0], target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(stems) + "\n", encoding="utf-8")
    origin = f"the split {split[0]}" if split else f"the val phase of {merged[0]}"
    return f"{root}: {len(stems)} photos and masks of {origin}"


def _context_regions(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Map the stem of each val photo of the detail release's json to a function that draws the
    photo's 459-class labels."""
    with json_content(path, "Pascal Context's json") as content:
        annotations = defaultdict[int, list[Mapping[str, Any]]](list)
        for one in content["annos_segmentation"]:
            annotations[one["image_id"]].append(one)
        sizes = {
            photo["image_id"]: (photo["height"], photo["width"])
            for photo in content["images"]
            if photo["phase"] == "val"
        }

    def draw(number: int) -> np.ndarray:
        labels = np.zeros(sizes[number], np.int64)
        for one in annotations[number]:
            labels[segmentation(one["segmentation"], sizes[number])] = one["category_id"]
        return labels

    # 2008000002 is 2008_000002.
    return {f"{n // 10**6}_{n % 10**6:06d}": partial(draw, n) for n in sizes}


def cityscapes(source: Path, root: Path) -> str:
    """Convert gtFine *_labelIds.png of train and val to *_labelTrainIds.png: 0..18, 255 void."""
    table = dict.fromkeys(range(256), 255) | {raw: i for i, raw in enumerate(CITYSCAPES_IDS)}
    labels = [f"{place}gtFine" for place in ("", "gtFine_trainvaltest/")]
    pictures = [f"{place}leftImg8bit" for place in ("", "leftImg8bit_trainvaltest/")]
    masks = search(source, labels, "val/*/*_labelIds.png", "labels")
    masks += search(source, labels, "train/*/*_labelIds.png")
    photos = search(source, pictures, "val/*/*_leftImg8bit.png", "photos")
    photos += search(source, pictures, "train/*/*_leftImg8bit.png")

    def convert(path: Path) -> None:
        name = path.name.replace("_labelIds.png", "_labelTrainIds.png")
        mask = remap(read_mask(path), table, path)
        save_mask(mask, root / "gtFine" / path.parents[1].name / path.parent.name / name)

    for_each(convert, masks, "Cityscapes")
    for photo in photos:
        split, city = photo.parents[1].name, photo.parent.name
        place(photo, root / "leftImg8bit" / split / city / photo.name)
    return f"{root}: {len(photos)} photos, {len(masks)} masks"


# For each data set: a function that converts the original download (None if nothing is to convert),
# where a folder of the right layout may lie below --from, and a pattern of that folder's files.
# Such a folder is linked as it lies; mmsegmentation's scripts make one too.
CONVERSIONS: dict[str, tuple[Callable[[Path, Path], str] | None, Sequence[str], str]] = {
    "voc21": (None, VOC2012, "SegmentationClass/*.png"),
    "voc20": (None, VOC2012, "SegmentationClass/*.png"),
    "context60": (context, VOC2010, "SegmentationClassContext/*.png"),
    "context59": (context, VOC2010, "SegmentationClassContext/*.png"),
    "coco_object": (coco_object, ".", "annotations/val2017/*_instanceTrainIds.png"),
    "coco_stuff164k": (coco_stuff164k, ".", "annotations/val2017/*_labelTrainIds.png"),
    "coco_stuff10k": (coco_stuff10k, ".", "annotations/test2014/*_labelTrainIds.png"),
    "cityscapes": (cityscapes, ".", "gtFine/val/*/*_labelTrainIds.png"),
    "ade20k": (None, ("ADEChallengeData2016", "."), "annotations/validation/*.png"),
}


def _coco_maps(source: Path, root: Path, table: Mapping[int, int], suffix: str) -> str:
    maps = search(source, COCO_MAPS, f"{COCO_STEM}.png", "stuffthingmaps")
    photos = search(source, COCO_IMAGES, "*.jpg", "photos")
    _check_coding(maps)

    def convert(path: Path) -> None:
        mask = remap(read_mask(path), table, path)
        save_mask(mask, root / "annotations/val2017" / f"{path.stem}{suffix}")

    for_each(convert, maps, "masks")
    for photo in photos:
        place(photo, root / "images/val2017" / photo.name)
    return f"{root}: {len(photos)} photos, {len(maps)} masks from the pixel maps {maps[0].parent}"


def _check_coding(maps: Sequence[Path]) -> None:
    """Refuse COCO's stuff pixelmaps, in which 0 is unlabelled and an id is the category.

    All their ids would shift by one, and unlabelled pixels would become person. In stuffthingmaps
    255 is unlabelled, and hardly a photo is without it. So maps without any 255 are refused if they
    hold 0, or ids that only pixelmaps have.
    """
    places = np.linspace(0, len(maps) - 1, min(len(maps), 50)).round().astype(int)
    present = np.zeros(256, bool)
    for index in places.tolist():
        raw = read_mask(maps[index])
        present[raw[(raw >= 0) & (raw < 256)]] = True
        if present[255]:
            return
    shifted = {category - 1 for category in CATEGORIES}
    strange = [value for value in np.flatnonzero(present).tolist() if value not in shifted]
    if present[0] or strange[:1] in ([182], [183]):
        raise LabError(
            f"{maps[0].parent}: none of {len(places)} maps holds 255, which is unlabelled in "
            "stuffthingmaps_trainval2017.zip, so 0 would be person; these look like COCO's stuff "
            "pixelmaps, where 0 is unlabelled and ids are categories. Take the stuffthingmaps"
        )


def _coco_instances(source: Path, root: Path, path: Path) -> str:
    photos = search(source, COCO_IMAGES, "*.jpg", "photos")
    folder, absent = photos[0].parent.absolute(), list[str]()
    # With mask_resize the photos need not be read: masks have the size that the json says.
    data = CocoJson(
        "coco_object", path.parent, str(folder), path.name, mask_resize="nearest", faults=absent
    )
    names = dict(zip(THINGS, Vocabulary.named("coco_panoptic").names, strict=False))
    if strange := sorted(data.categories.items() ^ names.items()):
        number = strange[0][0]
        theirs, coco = (one.get(number, "none") for one in (data.categories, names))
        raise LabError(
            f"{path}: category {number} is '{theirs}', COCO's is '{coco}'; a json of own "
            "categories is a data set of its own: _target_: sclip_lab.data.coco_json.CocoJson, see "
            "docs/your-data.md"
        )
    if absent:
        raise LabError(absent[0])

    def convert(name: str) -> None:
        # Ids are 0 background, then the categories in order: COCO-Object's.
        mask = data.read_ids(name, None, (0, 0))
        save_mask(mask, root / f"annotations/val2017/{name}_instanceTrainIds.png")

    for_each(convert, data.names, "masks")
    for photo in photos:
        place(photo, root / "images/val2017" / photo.name)
    return f"{root}: {len(photos)} photos, {len(data)} masks from {path}"


def _check_context_names(path: Path) -> None:
    """Check that the 459-class list gives our ids the names we expect."""
    names = dict(line.split(":", 1) for line in lines_of(path) if ":" in line)
    for raw, name in zip(CONTEXT_IDS, Vocabulary.named("sclip_context59").names, strict=True):
        listed = names.get(str(raw), "nothing").strip()
        if listed != name:
            raise LabError(f"{path}: id {raw} is '{listed}', expected '{name}'; another release?")
