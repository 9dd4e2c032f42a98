"""Write a yaml for a user's folder from what its layout, names, ids and classes show.

What files do not show, such as the names of classes, is left open in comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sclip_lab.core.errors import LabError
from sclip_lab.core.files import write_text
from sclip_lab.core.progress import Bar
from sclip_lab.data.annotations import is_annotation
from sclip_lab.data.base import build
from sclip_lab.data.decode import LARGEST_JSON
from sclip_lab.data.folder import PHOTO_SUFFIXES
from sclip_lab.data.guess_classes import Guess, compare_sizes, describe_annotations, describe_masks
from sclip_lab.data.guess_layout import (
    is_list,
    layout_keys,
    split_template,
    told_apart,
    usual_split,
)
from sclip_lab.data.splits import SPLIT
from sclip_lab.data.vocabulary import readable


def guess(folder: Path, target: Path | None = None) -> str:
    """Write a yaml for a folder, by default ./conf/dataset/<name>.yaml; say what to do next.

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
    dataset = build(config)
    for index in range(min(4, len(dataset))):
        dataset[index]
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


def recognise(root: Path) -> Guess:
    """The yaml's keys for a folder, without name and root; an error for a kind that is not read."""
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
    entries = content["annotations"]  # panoptic ones have pngs of their own
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and "category_id" in entry for entry in entries[:10]
    )


def _coco(root: Path, jsons: Sequence[str], photos: Sequence[str]) -> Guess:
    result = Guess("sclip_lab.data.coco_json.CocoJson")
    template, splits = split_template(jsons) or (jsons[0], [])
    split = usual_split(splits) if splits else ""
    content = json.loads((root / template.replace(SPLIT, split)).read_bytes())
    listed = str(content["images"][0]["file_name"]).replace("\\", "/")
    folders = [file.removesuffix(listed).rstrip("/") or "." for file in photos
               if file == listed or file.endswith("/" + listed)]  # fmt: skip
    if not folders:
        raise LabError(f"{root}: no photo {listed}, which {template} names")
    folder = next((f for f in folders if split in f.split("/")), folders[0])
    images = "/".join(SPLIT if split and part == split else part for part in folder.split("/"))
    result.keys = {"images": images, "annotations": template}
    if splits:
        result.choose_split(splits)
    names = [readable(str(c["name"])) for c in sorted(content["categories"], key=lambda c: c["id"])]
    result.keys["vocabulary"] = names if "background" in names else ["background", *names]
    result.comments += [
        "pixels of no instance are background; unlabelled: ignore leaves them out",
        "where instances overlap the smallest is on top; overlap: last takes the last",
    ]
    return result


def _pairs(root: Path, files: Sequence[str], photos: Sequence[str]) -> Guess:
    """Photos with one mask or json each."""
    result = Guess("sclip_lab.data.folder.Folder")
    arrays = [f for f in files if f.endswith(".npy")]
    jsons = [f for f in files if f.endswith(".json") and is_annotation(_json(root / f))]
    annotated = bool(jsons) and not arrays
    if annotated:
        pictures, masks = list(photos), jsons
    else:
        pictures, masks = told_apart(root, photos)
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
    in_split = [f for f in masks if split is None or split in f.split("/")]
    progress = Bar(in_split, "reading masks", unit="mask", delay=1, leave=False)
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
        compare_sizes(root, result)
    return result
