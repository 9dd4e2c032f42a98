"""A yaml for a folder of one's own: what can be seen of its layout, names, ids and classes.

What cannot be seen, such as what the classes are called, stands in comments to be filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.data.base import build
from sclip_lab.data.decode import LARGEST_JSON
from sclip_lab.data.folder import PHOTO_SUFFIXES
from sclip_lab.data.guess_classes import Guess, compare_sizes, describe_annotations, describe_masks
from sclip_lab.data.guess_layout import (
    layout_keys,
    split_lists,
    split_template,
    told_apart,
    usual_split,
)
from sclip_lab.data.splits import SPLIT
from sclip_lab.data.vocabulary import readable


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

    made = Guess("sclip_lab.data.parquet.HuggingFace")
    splits = HuggingFace.splits(root)
    if len(splits) > 1 or next(iter(splits)):
        made.keys["split"] = usual_split(splits)
        made.comments.append(f"dataset.split chooses among {', '.join(splits)}")
    made.keys["vocabulary"] = ["class 0"]
    probe = HuggingFace("x", root, ["class 0"], made.keys.get("split"))
    contents = ((f"row {index}", probe.mask_content(index)) for index in range(len(probe)))
    describe_masks(root, contents, made, [])
    return made


def _is_coco(path: Path) -> bool:
    if not 2 < path.stat().st_size <= LARGEST_JSON:
        return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        return False
    entries = content["annotations"]  # panoptic ones have pngs of their own
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and "category_id" in entry for entry in entries[:10]
    )


def _coco(root: Path, jsons: Sequence[str], photos: Sequence[str]) -> Guess:
    made = Guess("sclip_lab.data.coco_json.CocoJson")
    chosen = split_template(jsons)
    split = None
    if chosen is not None:
        template, splits = chosen
        split = usual_split(splits)
        made.comments.append(f"dataset.split chooses among {', '.join(splits)}")
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
    made.keys = {"images": images, "annotations": template}
    if split is not None:
        made.keys["split"] = split
    names = [readable(str(c["name"])) for c in sorted(content["categories"], key=lambda c: c["id"])]
    made.keys["vocabulary"] = names if "background" in names else ["background", *names]
    made.comments.append("pixels of no instance are background; unlabelled: ignore leaves them out")
    made.comments.append(
        "where instances overlap the smallest is seen; overlap: last takes the last"
    )
    return made


def _pairs(root: Path, files: Sequence[str], photos: Sequence[str]) -> Guess:
    """Photos with one mask or json each."""
    made = Guess("sclip_lab.data.folder.Folder")
    arrays = [f for f in files if f.endswith(".npy")]
    jsons = [f for f in files if f.endswith(".json") and _is_annotation(root / f)]
    if jsons and not arrays:
        masks, pictures = jsons, list(photos)
    else:
        pictures, masks = told_apart(root, photos)
        masks += arrays
    if not pictures or not masks:
        raise LabError(
            f"{root}: {len(pictures)} photos and {len(masks)} masks were recognised; masks are "
            "images of few ids or colours, .npy, or one json a photo (Labelme, Supervisely)"
        )
    layout = layout_keys(pictures, masks)
    made.keys |= layout
    if splits := layout.pop("_splits", None):
        del made.keys["_splits"]
        made.comments.append(f"dataset.split chooses among {', '.join(splits)}")
    split = layout.get("split")
    in_split = [f for f in masks if split is None or split in f.split("/")]
    progress = Bar(in_split, "reading masks", unit="mask", delay=1, leave=False)
    contents = ((mask, (root / mask).read_bytes()) for mask in progress)
    lists = split_lists(root, files, pictures) if split is None else []
    if lists:
        template, names = lists[0]
        made.keys |= {"split": usual_split(names), "split_list": template}
        made.comments.append(f"dataset.split chooses among {', '.join(names)}")
    if jsons and masks is jsons:
        describe_annotations(root, contents, made, files)
    else:
        describe_masks(root, contents, made, files)
        compare_sizes(root, made)
    return made


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
