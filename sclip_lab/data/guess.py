"""Write a yaml for a user's folder from what its layout, names, ids and classes show.

What files do not show, such as the names of classes, is left open in comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sclip_lab.core.errors import LabError
from sclip_lab.core.files import write_text
from sclip_lab.core.progress import Bar
from sclip_lab.data.annotations import is_annotation
from sclip_lab.data.base import Dataset, build
from sclip_lab.data.decode import LARGEST_JSON, read_mask
from sclip_lab.data.folder import PHOTO_SUFFIXES
from sclip_lab.data.guess_layout import (
    FEW_COLOURS,
    in_split,
    is_list,
    layout_keys,
    photos_and_masks,
    split_template,
    usual_split,
    with_split,
)
from sclip_lab.data.naming import SPLIT
from sclip_lab.data.palette import file_rows
from sclip_lab.data.vocabulary import Vocabulary, readable

CLASS_FILES = (
    "_classes.csv", "class_dict.csv", "labelmap.txt", "classes.txt", "labels.txt", "names.txt",
    "class_names.txt", "label_names.txt", "categories.txt", "classes.json", "labels.json",
    "categories.json", "id2label.json", "classes.csv", "labels.csv",
)  # fmt: skip
VOIDS = (-1, 255, 65535)  # usual ids of pixels without a class


@dataclass
class Guess:
    """The keys of a yaml, and comments on what files do not show."""

    target: str
    keys: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)

    def choose_split(self, splits: Collection[str]) -> None:
        """Set ``split`` to the usual one of several."""
        self.keys["split"] = usual_split(splits)
        self.comments.append(f"dataset.split chooses among {', '.join(splits)}")


def guess(folder: Path, target: Path | None = None) -> str:
    """Write a yaml for a folder, by default ./conf/dataset/<name>.yaml; return what to do next.

    Raises:
        LabError: nothing is recognised, or the yaml exists or cannot be written.
    """
    if not folder.is_dir():
        raise LabError(f"{folder}: no such folder")
    name = re.sub(r"\W+", "_", folder.resolve().name).strip("_").lower() or "mine"
    target = target or Path("conf/dataset") / f"{name}.yaml"
    if target.exists():
        raise LabError(f"{target} is there already; choose another with --to")
    recognised = recognise(folder.resolve())
    config = {"_target_": recognised.target, "name": target.stem, "root": str(folder.resolve())}
    config |= recognised.keys
    try:
        dataset = _read_some(config)
    except LabError as error:
        if "mask_resize: nearest" not in str(error):
            raise
        config["mask_resize"] = "nearest"
        recognised.comments.append(
            "masks have another size than their photos: the nearest id is taken"
        )
        dataset = _read_some(config)
    size = f"{len(dataset)} photos, {dataset.vocabulary.num_classes} classes"
    lines = [f"# {folder.resolve().name}: {size}. Guessed from the files; please check:"]
    lines += [f"# - {comment}" for comment in recognised.comments]
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(target, "\n".join(lines) + "\n" + text)
    conf = target.parent.parent
    open_points = "".join(f"\n  look at: {comment}" for comment in recognised.comments)
    return (
        f"{target}: {size}{open_points}\n"
        f"Next: sclip-lab data verify {target.stem} --config-dir {conf}\n"
        f"      sclip-lab evaluate --config-dir={conf} dataset={target.stem}"
    )


def _read_some(config: Mapping[str, Any]) -> Dataset:
    dataset = build(config)
    for index in range(min(4, len(dataset))):
        dataset[index]
    return dataset


def recognise(root: Path) -> Guess:
    """Return the yaml's keys for a folder, without name and root. A folder of another kind than the
    data sets here raises a LabError."""
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

    result = Guess("sclip_lab.data.parquet.HuggingFace")
    splits = HuggingFace.splits(root)
    if len(splits) > 1 or next(iter(splits)):
        result.choose_split(splits)
    result.keys["vocabulary"] = ["class 0"]
    probe = HuggingFace("x", root, ["class 0"], result.keys.get("split"))
    contents = ((name, probe.mask_content(name)) for name in probe.names)
    describe_masks(root, contents, result, [])
    return result


def _json(path: Path) -> Mapping[str, Any]:
    """The content of a json; empty if it cannot be read, is too large or is no mapping."""
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_JSON else {}
    except (ValueError, OSError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_coco(path: Path) -> bool:
    content = _json(path)
    if not {"images", "annotations", "categories"} <= set(content):
        return False
    entries = content["annotations"]  # panoptic entries have no category_id
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and "category_id" in entry for entry in entries[:10]
    )


def _coco(root: Path, jsons: Sequence[str], photos: Sequence[str]) -> Guess:
    result = Guess("sclip_lab.data.coco_json.CocoJson")
    template, splits = split_template(jsons) or (jsons[0], [])
    split = usual_split(splits) if splits else ""
    content = _json(root / template.replace(SPLIT, split))
    listed = str(content["images"][0]["file_name"]).replace("\\", "/")
    fitting = [file for file in photos if f"/{file}".endswith(f"/{listed}")]
    folders = [file.removesuffix(listed).rstrip("/") or "." for file in fitting]
    if not folders:
        raise LabError(f"{root}: no photo {listed}, which {template} names")
    folder = next((f for f in folders if split in f.split("/")), folders[0])
    result.keys = {"images": with_split(folder, split), "annotations": template}
    if splits:
        result.choose_split(splits)
    categories = sorted(content["categories"], key=lambda one: one["id"])
    result.keys["vocabulary"] = with_background(str(one["name"]) for one in categories)
    result.comments += [
        "pixels of no instance are background; unlabelled: ignore leaves them out",
        "where instances overlap the smallest is on top; overlap: last takes the last",
    ]
    return result


def _pairs(root: Path, files: Sequence[str], photos: Sequence[str]) -> Guess:
    """Guess the keys for a folder that has one mask or one json for each photo."""
    result = Guess("sclip_lab.data.folder.Folder")
    arrays = [f for f in files if f.endswith(".npy")]
    jsons = [f for f in files if f.endswith(".json") and is_annotation(_json(root / f))]
    annotated = bool(jsons) and not arrays
    if annotated:
        pictures, masks = list(photos), jsons
    else:
        pictures, masks = photos_and_masks(root, photos)
        masks += arrays
    if not pictures or not masks:
        raise LabError(
            f"{root}: {len(pictures)} photos and {len(masks)} masks were recognised; masks are "
            "images of few ids or colours, .npy, or one json a photo (Labelme, Supervisely)"
        )
    keys, splits = layout_keys(pictures, masks)
    result.keys |= keys
    if splits:
        result.choose_split(splits)
    split = result.keys.get("split")
    progress = Bar(in_split(masks, split), "reading masks", unit="mask", delay=1, leave=False)
    contents = ((mask, (root / mask).read_bytes()) for mask in progress)
    stems = {Path(picture).stem for picture in pictures}
    # Only files that are named after a split are read.
    lists = [f for f in files if split_template([Path(f).name]) and is_list(root / f, stems)]
    if split is None and (template := split_template(lists)):
        result.keys["split_list"], names = template
        result.choose_split(names)
    if annotated:
        describe_annotations(root, contents, result, files)
    else:
        describe_masks(root, contents, result, files)
    return result


def describe_masks(
    root: Path, contents: Iterable[tuple[str, bytes]], guess: Guess, files: Sequence[str]
) -> None:
    """State the ids or colours of masks as keys of ``guess``.

    ``contents`` yields name and bytes of every mask. If some masks were left out, ids that only
    they hold would get the wrong class from label_map.
    """
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
        _describe_colours(root, sorted(colours), guess, palette_file)
        return
    if grey:
        guess.keys["palette"] = "grey"
        guess.comments.append("the masks have three equal channels: their grey is the id")
    by_name = {Path(file).name.lower(): file for file in files}
    vocabulary = next((by_name[name] for name in CLASS_FILES if name in by_name), None)
    _describe_ids(root, sorted(ids), guess, vocabulary)


def _describe_ids(root: Path, ids: list[int], guess: Guess, file: str | None) -> None:
    largest = max((value for value in ids if value not in VOIDS), default=-2)
    void = [value for value in ids if value in VOIDS and value != largest + 1]
    classes = [value for value in ids if value not in void]
    largest = max(classes, default=0)
    names = None
    if file is not None:
        try:
            names = Vocabulary.read(root / file)
            guess.keys["vocabulary"] = file
        except LabError as error:
            guess.comments.append(f"{error}")
    count = names.num_classes if names else 0
    label_map: dict[int, Any] = {}
    if ids == [0, 255]:
        void, label_map, count = [], {255: 1}, max(2, count)
        guess.comments.append("ids are 0 and 255: 255 is taken for the second class, not for void")
    elif names and largest == count and 0 in classes:
        guess.keys["reduce_zero_label"] = True
        guess.comments.append(f"{count} names for ids 0..{count}: 0 is taken for void")
    elif classes and min(classes) == 1 and (not names or largest == count):
        guess.keys["reduce_zero_label"] = True
        guess.comments.append("ids begin with 1: class 0 is id 1")
        count = largest
    elif not names and len(classes) > 1 and largest + 1 >= 2 * len(classes):
        label_map = {raw: index for index, raw in enumerate(classes)}
        count = len(classes)
        guess.comments.append("ids with gaps are numbered anew by label_map")
    else:
        count = max(count, largest + 1)
    if names is None:
        guess.keys["vocabulary"] = [f"class {index}" for index in range(max(1, count))]
        guess.comments.append(
            "the names of the classes are not known: replace class 0, class 1, ... in the order "
            "of the ids"
        )
    ignore = 255 if count <= 255 else 65535
    if ignore != 255:
        guess.keys["ignore_index"] = ignore
    label_map |= {value: "ignore" for value in void if value != ignore}
    if label_map:
        guess.keys["label_map"] = label_map
    if void:
        guess.comments.append(f"id {', '.join(map(str, void))} is taken for void")


def _describe_colours(
    root: Path, colours: list[tuple[int, int, int]], guess: Guess, palette_file: str | None
) -> None:
    if palette_file is not None:
        rows = [name for name, _ in file_rows(root / palette_file)]
        guess.keys["palette"] = palette_file
        guess.keys["vocabulary"] = [readable(name) for name in rows]
        guess.comments.append(f"colours and names are those of {palette_file}")
        return
    if len(colours) > FEW_COLOURS:
        raise LabError(f"{root}: the masks have {len(colours)} colours; are they masks?")
    void = [colour for colour in colours if colour in ((255, 255, 255), (224, 224, 192))]
    void = void if len(colours) > 2 else []
    classes = [colour for colour in colours if colour not in void]
    names = [f"class {index}" for index in range(len(classes))]
    guess.keys["vocabulary"] = names
    guess.keys["palette"] = dict(zip(names, map(list, classes), strict=True))
    if void:
        guess.keys["palette"]["ignore"] = list(void[0])
        guess.comments.append(f"colour {list(void[0])} is taken for void")
    guess.comments.append(
        "what the colours mean is not known: name the classes, in vocabulary and palette alike"
    )


def with_background(names: Iterable[str]) -> list[str]:
    """Names of annotated classes as a text tower reads them, background first."""
    plain = [readable(name) for name in names]
    if not any(name.casefold() == "background" for name in plain):
        plain = ["background", *plain]
    return sorted(plain, key=lambda name: name.casefold() != "background")


def describe_annotations(
    root: Path, contents: Iterable[tuple[str, bytes]], guess: Guess, files: Sequence[str]
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
    guess.keys["vocabulary"] = with_background(n for n in sorted(names) if n not in ignored)
    if ignored:
        guess.keys["label_map"] = dict.fromkeys(ignored, "ignore")
    guess.comments.append("pixels of no shape are background; unlabelled: ignore leaves them out")
