"""Find out how the photos and masks of a folder lie and are named, from names and contents."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import Match, SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import read_image
from sclip_lab.data.naming import SPLIT, Naming

# Names of splits. Those to evaluate on come first, in the order of preference.
SPLITS = ("val", "valid", "validation", "test", "testing", "dev", "train", "training")
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])", re.I)
PHOTO_WORDS = {
    "images", "image", "img", "imgs", "photos", "jpegimages", "img_dir", "rgb", "leftimg8bit",
}  # fmt: skip
MASK_WORDS = {
    "masks", "mask", "labels", "label", "annotations", "ann_dir", "ann", "gt", "gtfine",
    "segmentationclass", "seg", "segmentation", "groundtruth",
}  # fmt: skip
_BESIDE = re.compile(r"segmentationobject|instance|_color|_colour|polygons|preview|overlay", re.I)
FEW_COLOURS = 64


def photos_and_masks(root: Path, pictures: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate photos from masks by their folder if its name is clear, else by their content."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in pictures:
        folder, _, last = file.rpartition("/")
        # Names of one folder that differ in digits alone are of one kind.
        kinds[folder, re.sub(r"\d+", "0", last.rpartition(".")[0]) + last[-4:].lower()].append(file)
    photos: list[str] = []
    masks: list[str] = []
    for (folder, _), members in kinds.items():
        parts = set(folder.lower().split("/"))
        of_masks, of_photos = bool(parts & MASK_WORDS), bool(parts & PHOTO_WORDS)
        if of_masks == of_photos:
            votes = [_is_mask(root / file) for file in members[:3]]
            of_masks = sum(votes) * 2 > len(votes)
        (masks if of_masks else photos).extend(members)
    # Masks of instances and coloured previews often lie beside the masks of classes.
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
    """Find folders, suffixes and names that pair photos with masks; return them as keys of a yaml,
    and the splits."""
    of_photos, of_masks = (
        {p for f in files for p in f.split("/")[:-1]} for files in (photos, masks)
    )
    common = sorted(part for part in of_photos & of_masks if part.lower() in SPLITS)
    split = usual_split(common) if common else None
    keys: dict[str, Any] = {} if split is None else {"split": split}
    folders, names = [], []
    for files in (in_split(photos, split), in_split(masks, split)):
        parents = [file.rpartition("/")[0] for file in files]
        folder = os.path.commonpath(parents).replace(os.sep, "/") or "." if all(parents) else "."
        folders.append(folder)
        names.append([os.path.relpath(file, folder).replace(os.sep, "/") for file in files])
    endings = sorted({"." + name.rpartition(".")[2] for name in names[0]})
    naming = _naming(names[0], names[1], tuple(endings))
    keys["images"], keys["masks"] = (with_split(folder, split) for folder in folders)
    if endings != [".jpg"]:
        keys["image_suffix"] = endings[0] if len(endings) == 1 else endings
    if naming.before or naming.behind:
        keys["image_name"] = f"{naming.before}{{stem}}{naming.behind}"
    if naming.mask_name != "{stem}":
        keys["mask_name"] = naming.mask_name
    if naming.mask_suffix != ".png":
        keys["mask_suffix"] = naming.mask_suffix
    if any("/" in name for name in names[0]):
        keys["recursive"] = True
    return keys, common


def _naming(photos: Sequence[str], masks: Sequence[str], endings: tuple[str, ...]) -> Naming:
    """Return the naming that pairs most photos with a mask.

    Whatever a photo and a mask have in common is tried as the stem.
    """
    suffix = "." + Counter(m.rpartition(".")[2] for m in masks).most_common(1)[0][0]
    mask_set = set(masks)
    ranks: dict[Naming, tuple[int, bool, int]] = {}
    for photo in photos[:: max(1, len(photos) // 4)][:5]:
        stem = photo.rpartition("/")[2].rpartition(".")[0]
        near = sorted(masks, key=lambda m: -_common(stem, m.rpartition("/")[2]).size)[:5]
        for before, behind, mask_name in (
            n for mask in near for n in _namings(photo, mask, suffix)
        ):
            naming = Naming(before, behind, mask_name, suffix, endings)
            if naming not in ranks:
                stems = [(naming.stem(p), p) for p in photos]
                pairs = sum(s is not None and naming.mask(s, p) in mask_set for s, p in stems)
                of_training = "train" in mask_name.lower()  # prefers Cityscapes' 19 classes
                ranks[naming] = pairs, of_training, -len(before + behind + mask_name)
    best = max(ranks, key=ranks.__getitem__, default=None)
    if best is None or ranks[best][0] == 0:
        raise LabError(
            f"no rule brings the photo {photos[0]} to one of {len(masks)} masks, such as {masks[0]}"
        )
    return best


def _common(stem: str, mask: str) -> Match:
    return SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match()


def _namings(photo: str, mask: str, suffix: str) -> Iterator[tuple[str, str, str]]:
    """Yield ways to pair a photo with a mask: (text before the stem, text behind it, mask_name)."""
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
        if stem and stem in mask_bare:
            before, _, behind = bare.partition(stem)
            nested = bool(folder) and not mask_folder
            yield before, behind, mask_bare.replace(stem, "{name}" if nested else "{stem}", 1)


def in_split(files: Iterable[str], split: str | None) -> list[str]:
    """The files in a folder named as the split; None takes all."""
    return [file for file in files if split is None or split in file.split("/")]


def with_split(folder: str, split: str | None) -> str:
    """A path with {split} in place of the split's name."""
    return "/".join(SPLIT if split and part == split else part for part in folder.split("/"))


def usual_split(splits: Iterable[str]) -> str:
    """The split to evaluate on: val before test before train."""
    return min(
        splits, key=lambda s: SPLITS.index(s.lower()) if s.lower() in SPLITS else len(SPLITS)
    )


def split_template(files: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return (path with {split}, splits) of the most files that differ only in a split's name."""
    templates: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if match := _SPLIT_WORD.search(file):
            templates[re.sub(rf"(?<![a-z]){match[0]}(?![a-z])", SPLIT, file)].append(match[0])
    return max(templates.items(), key=lambda each: len(each[1]), default=None)


def is_list(path: Path, stems: Collection[str]) -> bool:
    """Whether a file lists photos, which means that one of its words has one of ``stems``."""
    if path.suffix not in (".txt", ".csv", ".json"):
        return False
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    words = re.split(r"[\s,;\"\[\]]+", text.replace("\\", "/"))
    return any(Path(word).stem in stems for word in words if word)
