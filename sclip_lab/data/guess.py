"""A yaml for a folder of one's own: what can be seen of its layout, names, ids and classes.

What cannot be seen, such as what the classes are called, stands in comments to be filled in.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import build
from sclip_lab.data.decode import LARGEST_JSON, read_image, read_mask
from sclip_lab.data.folder import PHOTO_SUFFIXES, SPLIT
from sclip_lab.data.vocabulary import Vocabulary, readable

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "dev")
CLASS_FILES = [
    "_classes.csv",
    "class_dict.csv",
    "labelmap.txt",
    "classes.txt",
    "labels.txt",
    "names.txt",
    "class_names.txt",
    "label_names.txt",
    "categories.txt",
    "classes.json",
    "labels.json",
    "categories.json",
    "id2label.json",
    "classes.csv",
    "labels.csv",
]
PHOTO_WORDS = [
    "images",
    "image",
    "img",
    "imgs",
    "photos",
    "jpegimages",
    "img_dir",
    "rgb",
    "leftimg8bit",
]
MASK_WORDS = [
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "ann_dir",
    "ann",
    "gt",
    "gtfine",
    "segmentationclass",
    "seg",
    "segmentation",
    "groundtruth",
]
LOOKED_AT = 50  # masks whose ids are read
FEW_COLOURS = 64


@dataclass
class Guess:
    """The keys of a yaml, and what could not be known."""

    target: str
    keys: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)


def guess(folder: Path, target: Path | None = None) -> str:
    """Write a yaml for a folder.

    Args:
        folder: photos and masks, as they lie.
        target: the yaml; None: ./conf/dataset/<name of the folder>.yaml.

    Returns:
        what was written and what to do next, in words.

    Raises:
        LabError: nothing is recognised, the yaml is there already or cannot be written.
    """
    if not folder.is_dir():
        raise LabError(f"{folder}: no such folder")
    name = re.sub(r"\W+", "_", folder.resolve().name).strip("_").lower() or "mine"
    target = target or Path("conf/dataset") / f"{name}.yaml"
    if target.exists():
        raise LabError(f"{target} is there already; choose another with --to")
    made = recognise(folder.resolve())
    config = {"_target_": made.target, "name": target.stem, "root": str(folder.resolve())}
    config |= made.keys
    dataset = build(config)
    for index in range(min(4, len(dataset))):
        dataset[index]
    size = f"{len(dataset)} photos, {dataset.vocabulary.num_classes} classes"
    lines = [f"# {folder.resolve().name}: {size}. Guessed from the files; please check:"]
    lines += [f"# - {comment}" for comment in made.comments]
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
    except OSError as error:
        raise LabError(f"{target}: cannot be written ({error})") from error
    conf = target.parent.parent
    open_points = "".join(f"\n  look at: {comment}" for comment in made.comments)
    return (
        f"{target}: {size}{open_points}\n"
        f"Next: sclip-lab data verify {target.stem} --config-dir {conf}\n"
        f"      sclip-lab evaluate --config-dir={conf} dataset={target.stem}"
    )


def recognise(root: Path) -> Guess:
    """The yaml's keys for a folder, but for name and root.

    Raises:
        LabError: it is of no kind that is read, or its masks are damaged by compression.
    """
    files = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts[-2:])
    )
    if any(f.endswith(".parquet") or re.search(r"(^|/)data-[^/]*\.arrow$", f) for f in files):
        return _tables(root)
    coco = [f for f in files if f.endswith(".json") and _is_coco(root / f)]
    photos = [f for f in files if Path(f).suffix.lower() in (*PHOTO_SUFFIXES, ".gif")]
    if coco:
        return _coco(root, coco, photos)
    return _pairs(root, files, photos)


def _tables(root: Path) -> Guess:
    from sclip_lab.data.parquet import HuggingFace

    found = Guess("sclip_lab.data.parquet.HuggingFace")
    splits = HuggingFace.splits(root)
    if len(splits) > 1 or next(iter(splits)):
        found.keys["split"] = _usual_split(splits)
        found.comments.append(f"dataset.split chooses among {', '.join(splits)}")
    found.keys["vocabulary"] = ["class 0"]
    probe = HuggingFace("x", root, ["class 0"], found.keys.get("split"))
    places = np.linspace(0, len(probe) - 1, min(LOOKED_AT, len(probe))).astype(int)
    contents = [(f"row {index}", probe.mask_content(int(index))) for index in places]
    _describe_masks(root, contents, found, [])
    return found


def _is_coco(path: Path) -> bool:
    if not 2 < path.stat().st_size <= LARGEST_JSON:
        return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def _coco(root: Path, jsons: Sequence[str], photos: Sequence[str]) -> Guess:
    found = Guess("sclip_lab.data.coco_json.CocoJson")
    chosen = _split_template(jsons)
    split = None
    if chosen is not None:
        template, splits = chosen
        split = _usual_split(splits)
        found.comments.append(f"dataset.split chooses among {', '.join(splits)}")
    else:
        template = jsons[0]
    content = json.loads((root / template.replace(SPLIT, split or "")).read_bytes())
    listed = str(content["images"][0]["file_name"]).replace("\\", "/")
    folders = [file.removesuffix(listed).rstrip("/") or "." for file in photos
               if file == listed or file.endswith("/" + listed)]  # fmt: skip
    if not folders:
        raise LabError(f"{root}: no photo {listed}, which {template} names")
    if split is not None:
        folders = [f for f in folders if split in f.split("/")] or folders
        images = "/".join(SPLIT if part == split else part for part in folders[0].split("/"))
    else:
        images = folders[0]
    found.keys = {"images": images, "annotations": template}
    if split is not None:
        found.keys["split"] = split
    names = [readable(str(c["name"])) for c in sorted(content["categories"], key=lambda c: c["id"])]
    found.keys["vocabulary"] = names if "background" in names else ["background", *names]
    found.comments.append(
        "pixels of no instance are background; unlabelled: ignore leaves them out"
    )
    found.comments.append(
        "where instances overlap the smallest is seen; overlap: last takes the last"
    )
    return found


def _pairs(root: Path, files: Sequence[str], photos: Sequence[str]) -> Guess:
    """Photos with one mask or json each."""
    found = Guess("sclip_lab.data.folder.Folder")
    arrays = [f for f in files if f.endswith(".npy")]
    jsons = [f for f in files if f.endswith(".json") and _is_annotation(root / f)]
    if jsons and not arrays:
        masks, pictures = jsons, list(photos)
    else:
        pictures, masks = _told_apart(root, photos)
        masks += arrays
    if not pictures or not masks:
        raise LabError(
            f"{root}: {len(pictures)} photos and {len(masks)} masks were recognised; masks are "
            "images of few ids or colours, .npy, or one json a photo (Labelme, Supervisely)"
        )
    layout = _layout(pictures, masks)
    found.keys |= layout
    if splits := layout.pop("_splits", None):
        del found.keys["_splits"]
        found.comments.append(f"dataset.split chooses among {', '.join(splits)}")
    split = layout.get("split")
    in_split = [f for f in masks if split is None or split in f.split("/")]
    spread = [in_split[i] for i in np.linspace(0, len(in_split) - 1, LOOKED_AT).astype(int)]
    contents = [(mask, (root / mask).read_bytes()) for mask in dict.fromkeys(spread)]
    lists = _lists(root, files, pictures) if split is None else []
    if lists:
        template, names = lists[0]
        found.keys |= {"split": _usual_split(names), "split_list": template}
        found.comments.append(f"dataset.split chooses among {', '.join(names)}")
    if jsons and masks is jsons:
        _describe_annotations(root, contents, found, files)
    else:
        _describe_masks(root, contents, found, files)
        _compare_sizes(root, found)
    return found


def _is_annotation(path: Path) -> bool:
    """Whether a json is Labelme's or Supervisely's of one photo."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(content, dict) and (
        isinstance(content.get("shapes"), list)
        or (isinstance(content.get("objects"), list) and "size" in content)
    )


def _told_apart(root: Path, pictures: Sequence[str]) -> tuple[list[str], list[str]]:
    """Photos and masks among image files, by what they hold; by their folders where it helps."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in pictures:
        folder, _, last = file.rpartition("/")
        # Names of one folder that differ in digits alone are of one kind.
        kinds[folder, re.sub(r"\d+", "0", last.rpartition(".")[0]) + last[-4:].lower()].append(file)
    photos: list[str] = []
    masks: list[str] = []
    by_folder: dict[str, list[bool]] = defaultdict(list)
    verdicts: dict[tuple[str, str], bool] = {}
    for key, members in kinds.items():
        votes = [_is_mask(root / file) for file in members[:3]]
        verdicts[key] = sum(votes) * 2 > len(votes)
        by_folder[key[0]] += votes
    for key, members in kinds.items():
        parts = set(key[0].lower().split("/"))
        if parts & set(MASK_WORDS) and not parts & set(PHOTO_WORDS):
            verdict = True
        elif parts & set(PHOTO_WORDS) and not parts & set(MASK_WORDS):
            verdict = False
        else:
            verdict = verdicts[key]
        (masks if verdict else photos).extend(members)
    return sorted(photos), sorted(masks)


def _is_mask(path: Path) -> bool:
    """Whether an image looks like a mask: one channel or few colours, in areas."""
    try:
        values = read_image(path)
    except LabError:
        return True  # 32-bit ids are no photo
    flat = values.reshape(-1, 3).astype(np.int64) @ np.array([65536, 256, 1])
    return len(np.unique(flat)) <= max(FEW_COLOURS, flat.size // 50)


def _layout(photos: Sequence[str], masks: Sequence[str]) -> dict[str, Any]:
    """Folders, suffixes and names that bring photos and masks together."""
    keys: dict[str, Any] = {}
    splits_of_photos, splits_of_masks = _splits(photos), _splits(masks)
    common = [split for split in splits_of_photos if split in splits_of_masks]
    if common:
        keys["split"], keys["_splits"] = _usual_split(common), common
        photos = [f for f in photos if keys["split"] in f.split("/")]
        masks = [f for f in masks if keys["split"] in f.split("/")]
    images, mask_folder = _common_folder(photos), _common_folder(masks)
    names = [os.path.relpath(f, images).replace(os.sep, "/") for f in photos]
    mask_names = [os.path.relpath(f, mask_folder).replace(os.sep, "/") for f in masks]
    before, behind, mask_name, suffix = _naming(names, mask_names)
    endings = sorted({"." + name.rpartition(".")[2] for name in names})
    keys["images"], keys["masks"] = (
        "/".join(SPLIT if part == keys.get("split") else part for part in folder.split("/"))
        for folder in (images, mask_folder)
    )
    if endings != [".jpg"]:
        keys["image_suffix"] = endings[0] if len(endings) == 1 else endings
    if before or behind:
        keys["image_name"] = f"{before}{{stem}}{behind}"
    if mask_name != "{stem}":
        keys["mask_name"] = mask_name
    if suffix != ".png":
        keys["mask_suffix"] = suffix
    if any("/" in name for name in names):
        keys["recursive"] = True
    return keys


def _naming(photos: Sequence[str], masks: Sequence[str]) -> tuple[str, str, str, str]:
    """What stands before and behind a photo's stem, the mask's name, and the mask's suffix.

    Tried: whatever a photo and a mask have in common is the stem; the choice that pairs most wins.
    """
    suffix = "." + Counter(m.rpartition(".")[2] for m in masks).most_common(1)[0][0]
    mask_set = set(masks)
    best: tuple[int, int, tuple[str, str, str, str]] | None = None
    tried = set()
    for photo in photos[:: max(1, len(photos) // 4)][:5]:
        stem = photo.rpartition("/")[2].rpartition(".")[0]
        near = sorted(masks, key=lambda m: -_likeness(stem, m.rpartition("/")[2]))[:5]
        for mask in near:
            for naming in _namings(photo, mask, suffix):
                if naming in tried:
                    continue
                tried.add(naming)
                pairs = sum(_mask_of(p, naming) in mask_set for p in photos)
                rank = (pairs, -sum(map(len, naming)), naming)
                if best is None or rank[:2] > best[:2]:
                    best = rank
    if best is None or best[0] == 0:
        raise LabError(
            f"no rule brings the photo {photos[0]} to one of {len(masks)} masks, such as {masks[0]}"
        )
    return best[2]


def _likeness(stem: str, mask: str) -> float:
    return SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match().size


def _namings(photo: str, mask: str, suffix: str) -> Iterable[tuple[str, str, str, str]]:
    """Ways in which one photo and one mask could belong together."""
    folder, _, last = photo.rpartition("/")
    bare, whole = last.rpartition(".")[0], last
    mask_folder, _, mask_last = mask.rpartition("/")
    mask_bare = mask_last.removesuffix(suffix)
    stems = {bare}
    match = SequenceMatcher(None, bare, mask_bare, autojunk=False).find_longest_match()
    common = bare[match.a : match.a + match.size]
    stems |= {common, common.strip("_-. ")}
    if digits := re.findall(r"\d+", common):
        stems.add(digits[-1])
    if whole in mask_bare:
        yield "", "", mask_bare.replace(whole, "{photo}", 1), suffix
    if folder and mask_bare and mask_folder == folder and bare not in mask_bare:
        yield "", "", f"{{folder}}/{mask_bare}", suffix
    for stem in stems:
        if not stem or stem not in mask_bare:
            continue
        before, _, behind = bare.partition(stem)
        nested = bool(folder) and not mask_folder
        inside = mask_bare.replace(stem, "{name}" if nested else "{stem}", 1)
        yield before, behind, inside, suffix


def _mask_of(photo: str, naming: tuple[str, str, str, str]) -> str | None:
    """The mask's file under a naming, as `Folder` would look for it."""
    before, behind, mask_name, suffix = naming
    folder, slash, last = photo.rpartition("/")
    bare = last.rpartition(".")[0]
    if not (bare.startswith(before) and bare.endswith(behind)):
        return None
    stem = bare[len(before) : len(bare) - len(behind)]
    if not stem:
        return None
    inside = folder + slash if "{stem}" in mask_name and "/" not in mask_name else ""
    for part, value in (("stem", stem), ("name", stem), ("folder", folder), ("photo", photo)):
        mask_name = mask_name.replace(f"{{{part}}}", value)
    return f"{inside}{mask_name}{suffix}"


def _describe_masks(
    root: Path, contents: Sequence[tuple[str, bytes]], found: Guess, files: Sequence[str]
) -> None:
    """Ids or colours of masks as vocabulary, label_map, palette and ignore_index."""
    palette_file = next(
        (f for f in files if Path(f).name in ("labelmap.txt", "class_dict.csv")), None
    )
    ids: set[int] = set()
    colours: set[tuple[int, int, int]] = set()
    grey = False
    for source, content in contents:
        try:
            ids.update(np.unique(read_mask(source, content)).tolist())
        except LabError as error:
            if "holds colours" not in str(error):
                raise
            picture = read_mask(source, content, colours=True)
            unique = np.unique(picture.reshape(-1, 3), axis=0)
            if (unique == unique[:, :1]).all() and palette_file is None:
                grey = True
                ids.update(unique[:, 0].tolist())
            else:
                colours.update(map(tuple, unique.tolist()))
    if colours:
        _describe_colours(root, sorted(colours), found, palette_file)
        return
    if grey:
        found.keys["palette"] = "grey"
        found.comments.append("the masks have three equal channels: their grey is the id")
    vocabulary = _vocabulary_file(root, files)
    _describe_ids(root, sorted(ids), found, vocabulary)


def _describe_ids(root: Path, ids: list[int], found: Guess, file: str | None) -> None:
    void = [value for value in ids if value in (-1, 255, 65535) and value != max(
        (v for v in ids if v not in (-1, 255, 65535)), default=-2) + 1]  # fmt: skip
    classes = [value for value in ids if value not in void]
    if ids == [0, 255]:
        void, classes = [], [0, 255]
        found.comments.append("ids are 0 and 255: 255 is taken for the second class, not for void")
    names = None
    if file is not None:
        try:
            names = Vocabulary.read(root / file)
            found.keys["vocabulary"] = file
        except LabError as error:
            found.comments.append(f"{error}")
    count = names.num_classes if names else 0
    label_map: dict[int, Any] = {}
    if names and classes and max(classes) == count and 0 in classes:
        found.keys["reduce_zero_label"] = True
        found.comments.append(f"{count} names for ids 0..{count}: 0 is taken for void")
    elif classes and min(classes) == 1 and (not names or max(classes) == count):
        found.keys["reduce_zero_label"] = True
        found.comments.append("ids begin with 1: class 0 is id 1")
        count = max(count, max(classes))
    elif names and classes and max(classes) < count:
        pass
    elif classes != list(range(len(classes))) and not names and max(classes) > len(classes) + 8:
        label_map = {raw: index for index, raw in enumerate(classes)}
        count = len(classes)
        found.comments.append("ids with gaps are numbered anew by label_map")
    elif ids == [0, 255]:
        label_map, count = {255: 1}, max(2, count)
    else:
        count = max(count, max(classes, default=0) + 1)
    if names is None:
        found.keys["vocabulary"] = [f"class {index}" for index in range(max(1, count))]
        found.comments.append(
            "the names of the classes are not known: replace class 0, class 1, ... in the order "
            "of the ids"
        )
    ignore = 255 if count <= 255 else 65535
    if ignore != 255:
        found.keys["ignore_index"] = ignore
    label_map |= {value: "ignore" for value in void if value != ignore}
    if label_map:
        found.keys["label_map"] = label_map
    if void:
        found.comments.append(f"id {', '.join(map(str, void))} is taken for void")


def _describe_colours(
    root: Path, colours: list[tuple[int, int, int]], found: Guess, palette_file: str | None
) -> None:
    if palette_file is not None:
        rows = _palette_names(root / palette_file)
        found.keys["palette"] = palette_file
        found.keys["vocabulary"] = [readable(name) for name in rows]
        found.comments.append(f"colours and names are those of {palette_file}")
        return
    if len(colours) > FEW_COLOURS:
        raise LabError(f"{root}: masks have {len(colours)} colours or more; are they masks?")
    void = [colour for colour in colours if colour in ((255, 255, 255), (224, 224, 192))]
    void = void if len(colours) > 2 else []
    classes = [colour for colour in colours if colour not in void]
    names = [f"class {index}" for index in range(len(classes))]
    found.keys["vocabulary"] = names
    found.keys["palette"] = dict(zip(names, map(list, classes), strict=True))
    if void:
        found.keys["palette"]["ignore"] = list(void[0])
        found.comments.append(f"colour {list(void[0])} is taken for void")
    found.comments.append(
        "what the colours mean is not known: name the classes, in both keys alike"
    )


def _palette_names(path: Path) -> list[str]:
    from sclip_lab.data.palette import file_rows

    return [name for name, _ in file_rows(path)]


def _describe_annotations(
    root: Path, contents: Sequence[tuple[str, bytes]], found: Guess, files: Sequence[str]
) -> None:
    names: dict[str, None] = {}
    for _, content in contents:
        annotation = json.loads(content)
        for shape in annotation.get("shapes", annotation.get("objects", [])):
            names[str(shape.get("label", shape.get("classTitle")))] = None
    meta = next((f for f in files if Path(f).name == "meta.json"), None)
    if meta is not None:
        classes = json.loads((root / meta).read_bytes()).get("classes", [])
        names |= {str(one["title"]): None for one in classes}
    ignored = [n for n in names if n.strip("_").casefold() in ("ignore", "void")]
    classes = [readable(n) for n in sorted(names) if n not in ignored]
    if not any(name.casefold() == "background" for name in classes):
        classes = ["background", *classes]
    found.keys["vocabulary"] = sorted(classes, key=lambda name: name.casefold() != "background")
    if ignored:
        found.keys["label_map"] = dict.fromkeys(ignored, "ignore")
    found.comments.append("pixels of no shape are background; unlabelled: ignore leaves them out")


def _compare_sizes(root: Path, found: Guess) -> None:
    """mask_resize where the first masks have other sizes than their photos."""
    config = {"name": "x", "root": str(root), **found.keys, "mask_resize": "nearest", "limit": 3}
    dataset: Any = build({"_target_": found.target, **config})
    for name in dataset.names:
        photo = read_image(dataset.image_path(name))
        path = dataset.mask_path(name)
        coloured = dataset.labels.palette is not None
        mask = read_mask(path, colours=coloured)
        if photo.shape[:2] != mask.shape[:2]:
            found.keys["mask_resize"] = "nearest"
            found.comments.append(
                "masks have another size than their photos: the nearest id is taken"
            )
            return


def _vocabulary_file(root: Path, files: Sequence[str]) -> str | None:
    by_name = {Path(file).name.lower(): file for file in files}
    return next((by_name[name] for name in CLASS_FILES if name in by_name), None)


def _lists(root: Path, files: Sequence[str], photos: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Lists of photos that are named after splits: (path with {split}, splits)."""
    stems = {Path(photo).stem for photo in photos}
    templates: dict[str, list[str]] = defaultdict(list)
    for file in files:
        path = Path(file)
        if path.suffix not in (".txt", ".csv", ".json") or path.stem.lower() not in SPLITS:
            continue
        text = (root / file).read_text(encoding="utf-8-sig", errors="replace")
        words = re.split(r"[\s,;\"\[\]]+", text)
        if any(Path(word.replace("\\", "/")).stem in stems for word in words if word):
            templates[str(path.with_name(SPLIT + path.suffix).as_posix())].append(path.stem)
    return sorted(templates.items(), key=lambda each: -len(each[1]))


def _split_template(files: Sequence[str]) -> tuple[str, list[str]] | None:
    """Files that differ in the name of a split alone: (path with {split}, splits)."""
    templates: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for split in SPLITS:
            pattern = rf"(?<![a-z]){split}(?![a-z])"
            if re.search(pattern, file):
                templates[re.sub(pattern, SPLIT, file)].append(split)
                break
    return max(templates.items(), key=lambda each: len(each[1]), default=None)


def _splits(files: Sequence[str]) -> list[str]:
    folders = {part for file in files for part in file.split("/")[:-1]}
    return [part for part in sorted(folders) if part.lower() in SPLITS]


def _usual_split(splits: Iterable[str]) -> str:
    """The one to evaluate on: val before test before train."""
    order = ("val", "valid", "validation", "test", "testing", "dev")
    return min(splits, key=lambda s: order.index(s.lower()) if s.lower() in order else len(order))


def _common_folder(files: Sequence[str]) -> str:
    folders = [file.rpartition("/")[0] for file in files]
    return os.path.commonpath(folders).replace(os.sep, "/") or "." if all(folders) else "."
