"""Find out what a folder's masks hold (ids, colours, class names), as yaml keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import build
from sclip_lab.data.decode import read_mask
from sclip_lab.data.guess_layout import FEW_COLOURS, usual_split
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


def describe_masks(
    root: Path, contents: Iterable[tuple[str, bytes]], guess: Guess, files: Sequence[str]
) -> None:
    """State the ids or colours of masks as keys of ``guess``.

    ``contents`` has name and bytes of every mask: an id that a sample does not show would get the
    wrong class from the label_map.
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
        raise LabError(f"{root}: masks have {len(colours)} colours or more; are they masks?")
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
        "what the colours mean is not known: name the classes, in both keys alike"
    )


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
    classes = [readable(n) for n in sorted(names) if n not in ignored]
    if not any(name.casefold() == "background" for name in classes):
        classes = ["background", *classes]
    guess.keys["vocabulary"] = sorted(classes, key=lambda name: name.casefold() != "background")
    if ignored:
        guess.keys["label_map"] = dict.fromkeys(ignored, "ignore")
    guess.comments.append("pixels of no shape are background; unlabelled: ignore leaves them out")


def compare_sizes(root: Path, guess: Guess) -> None:
    """Set mask_resize if the first masks have other sizes than their photos."""
    config = {"name": "x", "root": str(root), **guess.keys, "limit": 3}
    dataset = build({"_target_": guess.target, **config})
    for index in range(len(dataset)):
        try:
            dataset[index]
        except LabError as error:
            if "mask_resize: nearest" not in str(error):
                continue  # building the finished yaml will raise it
            guess.keys["mask_resize"] = "nearest"
            guess.comments.append(
                "masks have another size than their photos: the nearest id is taken"
            )
            return
