"""Find out how the photos and masks of a folder lie and are named, from names and contents."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from difflib import Match, SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import read_image
from sclip_lab.data.naming import Naming
from sclip_lab.data.splits import SPLIT

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "dev")
PHOTO_WORDS = {
    "images", "image", "img", "imgs", "photos", "jpegimages", "img_dir", "rgb", "leftimg8bit",
}  # fmt: skip
MASK_WORDS = {
    "masks", "mask", "labels", "label", "annotations", "ann_dir", "ann", "gt", "gtfine",
    "segmentationclass", "seg", "segmentation", "groundtruth",
}  # fmt: skip
_BESIDE = re.compile(r"segmentationobject|instance|_color|_colour|polygons|preview|overlay", re.I)
FEW_COLOURS = 64


def told_apart(root: Path, pictures: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate photos from masks by their content, and by their folder if its name is clear."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in pictures:
        folder, _, last = file.rpartition("/")
        # Names of one folder that differ in digits alone are of one kind.
        kinds[folder, re.sub(r"\d+", "0", last.rpartition(".")[0]) + last[-4:].lower()].append(file)
    photos: list[str] = []
    masks: list[str] = []
    verdicts: dict[tuple[str, str], bool] = {}
    for key, members in kinds.items():
        votes = [_is_mask(root / file) for file in members[:3]]
        verdicts[key] = sum(votes) * 2 > len(votes)
    for key, members in kinds.items():
        parts = set(key[0].lower().split("/"))
        of_masks, of_photos = bool(parts & MASK_WORDS), bool(parts & PHOTO_WORDS)
        is_mask = of_masks if of_masks != of_photos else verdicts[key]
        (masks if is_mask else photos).extend(members)
    # Instances and pictures in colours often lie beside the classes.
    in_mask_folders = [m for m in masks if set(m.lower().split("/")[:-1]) & MASK_WORDS]
    classes = [m for m in in_mask_folders or masks if not _BESIDE.search(m)]
    return sorted(photos), sorted(classes or masks)


def _is_mask(path: Path) -> bool:
    """Whether an image looks like a mask: one channel or few colours, in areas."""
    try:
        values = read_image(path)
    except LabError:
        return True  # 32-bit ids are no photo
    flat = values.reshape(-1, 3).astype(np.int64) @ np.array([65536, 256, 1])
    return len(np.unique(flat)) <= max(FEW_COLOURS, flat.size // 50)


def layout_keys(
    photos: Sequence[str], masks: Sequence[str]
) -> tuple[dict[str, Any], Sequence[str]]:
    """Find folders, suffixes and names that pair photos with masks; return them and the splits."""
    keys: dict[str, Any] = {}
    splits_of_photos, splits_of_masks = _splits(photos), _splits(masks)
    common = [split for split in splits_of_photos if split in splits_of_masks]
    if common:
        keys["split"] = usual_split(common)
        photos = [f for f in photos if keys["split"] in f.split("/")]
        masks = [f for f in masks if keys["split"] in f.split("/")]
    images, mask_folder = _common_folder(photos), _common_folder(masks)
    names = [os.path.relpath(f, images).replace(os.sep, "/") for f in photos]
    mask_names = [os.path.relpath(f, mask_folder).replace(os.sep, "/") for f in masks]
    endings = sorted({"." + name.rpartition(".")[2] for name in names})
    naming = _naming(names, mask_names, tuple(endings))
    keys["images"], keys["masks"] = (
        "/".join(SPLIT if part == keys.get("split") else part for part in folder.split("/"))
        for folder in (images, mask_folder)
    )
    if endings != [".jpg"]:
        keys["image_suffix"] = endings[0] if len(endings) == 1 else endings
    if naming.before or naming.behind:
        keys["image_name"] = f"{naming.before}{{stem}}{naming.behind}"
    if naming.mask_name != "{stem}":
        keys["mask_name"] = naming.mask_name
    if naming.mask_suffix != ".png":
        keys["mask_suffix"] = naming.mask_suffix
    if any("/" in name for name in names):
        keys["recursive"] = True
    return keys, common


def _naming(photos: Sequence[str], masks: Sequence[str], endings: tuple[str, ...]) -> Naming:
    """The names that pair most photos with a mask.

    Whatever a photo and a mask have in common is tried as the stem.
    """
    suffix = "." + Counter(m.rpartition(".")[2] for m in masks).most_common(1)[0][0]
    mask_set = set(masks)
    ranks: dict[Naming, tuple[int, bool, int]] = {}
    for photo in photos[:: max(1, len(photos) // 4)][:5]:
        stem = photo.rpartition("/")[2].rpartition(".")[0]
        near = sorted(masks, key=lambda m: -_common(stem, m.rpartition("/")[2]).size)[:5]
        for mask in near:
            for before, behind, mask_name in _namings(photo, mask, suffix):
                naming = Naming(before, behind, mask_name, suffix, endings)
                if naming in ranks:
                    continue
                stems = [(naming.stem(p), p) for p in photos]
                pairs = sum(s is not None and naming.mask(s, p) in mask_set for s, p in stems)
                of_training = "train" in mask_name.lower()  # Cityscapes' ids of 19 classes
                ranks[naming] = pairs, of_training, -len(before + behind + mask_name)
    best = max(ranks, key=ranks.__getitem__, default=None)
    if best is None or ranks[best][0] == 0:
        raise LabError(
            f"no rule brings the photo {photos[0]} to one of {len(masks)} masks, such as {masks[0]}"
        )
    return best


def _common(stem: str, mask: str) -> Match:
    return SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match()


def _namings(photo: str, mask: str, suffix: str) -> Iterable[tuple[str, str, str]]:
    """Ways to pair one photo with one mask: text before and behind the stem, the mask's name."""
    folder, _, last = photo.rpartition("/")
    bare = last.rpartition(".")[0]
    mask_folder, _, mask_last = mask.rpartition("/")
    mask_bare = mask_last.removesuffix(suffix)
    match = _common(bare, mask_bare)
    common = bare[match.a : match.a + match.size]
    stems = {bare, common, common.strip("_-. ")}
    if digits := re.findall(r"\d+", common):
        stems.add(digits[-1])
    if last in mask_bare:
        yield "", "", mask_bare.replace(last, "{photo}", 1)
    if folder and mask_bare and mask_folder == folder and bare not in mask_bare:
        yield "", "", f"{{folder}}/{mask_bare}"
    for stem in stems:
        if not stem or stem not in mask_bare:
            continue
        before, _, behind = bare.partition(stem)
        nested = bool(folder) and not mask_folder
        yield before, behind, mask_bare.replace(stem, "{name}" if nested else "{stem}", 1)


def _splits(files: Sequence[str]) -> list[str]:
    folders = {part for file in files for part in file.split("/")[:-1]}
    return [part for part in sorted(folders) if part.lower() in SPLITS]


def usual_split(splits: Iterable[str]) -> str:
    """The split to evaluate on: val before test before train."""
    order = ("val", "valid", "validation", "test", "testing", "dev")
    return min(splits, key=lambda s: order.index(s.lower()) if s.lower() in order else len(order))


def _common_folder(files: Sequence[str]) -> str:
    folders = [file.rpartition("/")[0] for file in files]
    return os.path.commonpath(folders).replace(os.sep, "/") or "." if all(folders) else "."


def split_template(files: Iterable[str]) -> tuple[str, list[str]] | None:
    """Files whose names differ only in a split: (path with {split}, splits)."""
    pattern = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])", re.I)
    templates: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if match := pattern.search(file):
            templates[re.sub(rf"(?<![a-z]){match[0]}(?![a-z])", SPLIT, file)].append(match[0])
    return max(templates.items(), key=lambda each: len(each[1]), default=None)


def is_list(path: Path, stems: Collection[str]) -> bool:
    """Whether a file lists photos."""
    if path.suffix not in (".txt", ".csv", ".json"):
        return False
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    words = re.split(r"[\s,;\"\[\]]+", text.replace("\\", "/"))
    return any(Path(word).stem in stems for word in words if word)
