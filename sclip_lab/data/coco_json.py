"""A folder of photos and one json with the instances of all photos, in COCO's format.

Format: https://cocodataset.org/#format-data, as CVAT, Label Studio, Roboflow and others export it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sclip_lab.core.errors import LabError, about
from sclip_lab.data.base import select, selection_words
from sclip_lab.data.class_ids import BACKGROUND, IGNORE, ClassIds
from sclip_lab.data.decode import json_content
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.naming import filled, has_split
from sclip_lab.data.paths import below
from sclip_lab.data.polygons import segmentation
from sclip_lab.data.vocabulary import Vocabulary, readable


class CocoJson(FileDataset):
    """Photos whose instances are drawn into masks of class ids.

    Args:
        annotations: the json, below root; may hold {split}.
        vocabulary: class names in id order. Every category must be a class, or be listed in
            label_map. None takes the json's categories in the order of their ids, with blanks for
            underscores, after "background" unless ``unlabelled`` is set.
        label_map: {category name: class name, id or "ignore"}.
        overlap: where instances overlap, the "smallest" by area is on top, or the "last" of the
            json. Crowds lie below all others.
        crowd: "keep" regions marked iscrowd, or "ignore" their pixels.
        name, root, images, unlabelled, ignore_index, mask_resize, split, limit, sample, seed,
            expected, faults: see `sclip_lab.data.folder.Folder`.

    Attributes:
        categories: {category id: name} of the json, ids in order.

    Raises:
        LabError: a json that is damaged or of another kind, unknown categories, missing photos.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        images: str,
        annotations: str,
        vocabulary: str | Sequence[str] | Vocabulary | None = None,
        unlabelled: str | int | None = None,
        label_map: Mapping[Any, Any] | None = None,
        overlap: Literal["smallest", "last"] = "smallest",
        crowd: Literal["keep", "ignore"] = "keep",
        ignore_index: int = 255,
        mask_resize: Literal["nearest"] | None = None,
        split: str | None = None,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        expected: int | Sequence[int] | None = None,
        faults: list[str] | None = None,
    ) -> None:
        self.name, self.faults = name, faults
        self.root = Path(root).expanduser()
        if split is not None or has_split(images, annotations):
            images, annotations = filled(self.root, split, images, annotations)
        self.split = split or ""
        self.images, self.annotations = self.root / images, self.root / annotations
        self._read_annotations()
        if vocabulary is None:
            names = [readable(category) for category in self.categories.values()]
            has_one = BACKGROUND in map(str.casefold, names)
            bare = [BACKGROUND] if unlabelled is None and not has_one else []
            vocabulary = Vocabulary.of(name, [[text] for text in [*bare, *names]])
        self.vocabulary = Vocabulary.typed(vocabulary, "vocabulary", self.root)
        self.ignore_index = ignore_index
        self.class_ids = ClassIds(
            self.title, self.vocabulary, self.root, ignore_index, label_map, unlabelled=unlabelled
        )
        source = f"category of {self.annotations}"
        self._id_of = {n: self.class_ids.class_id(c, source) for n, c in self.categories.items()}
        self.overlap, self.crowd, self.mask_resize = overlap, crowd, mask_resize
        self.selection = selection_words(limit, sample, seed, len(self._photos))
        self.expected = expected
        names = select(sorted(self._photos), limit, sample, seed)
        listing = f" (as {self.annotations} says)"
        self._names = self.present(
            names, lambda n: self.image_path(n).is_file(), self.image_path, "photo", listing
        )

    @property
    def reading(self) -> dict[str, Any]:
        return {**super().reading, "overlap": self.overlap, "crowd": self.crowd}

    def image_path(self, name: str) -> Path:
        return self.images / self._photos[name]["file_name"]

    def annotation_digest(self, name: str) -> str:
        """sha256 over a photo's size and instances, with class ids in place of categories."""
        photo = self._photos[name]
        content = [
            photo.get("height"), photo.get("width"),
            [[self._id_of[one["category_id"]], one.get("iscrowd", 0), one.get("area"),
              one["segmentation"]] for one in self._instances.get(photo["id"], ())],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        photo = self._photos[name]
        size = (int(photo.get("height") or photo_size[0]), int(photo.get("width") or photo_size[1]))
        if size != photo_size and self.mask_resize is None:
            return np.zeros(size, self.class_ids.dtype)  # its size is refused, so no need to draw
        layers: list[tuple[bool, float, int, np.ndarray]] = []
        for one in self._instances.get(photo["id"], ()):
            with about(f"{self.annotations}: annotation {one.get('id')} of {name}"):
                region = segmentation(one["segmentation"], size)
            crowd = _is_crowd(one)
            ignored = crowd and self.crowd == IGNORE
            number = self.ignore_index if ignored else self._id_of[one["category_id"]]
            area = float(one.get("area") or 0) or int(region.sum())
            layers.append((not crowd, -area, number, region))
        # Crowds are drawn first, large instances before small ones.
        layers.sort(key=lambda layer: layer[: 2 if self.overlap == "smallest" else 1])
        return self.class_ids.paint(size, (layer[2:] for layer in layers))

    def _read_annotations(self) -> None:
        self._photos: dict[str, Mapping[str, Any]] = {}  # by name
        self._instances: dict[int, list[Mapping[str, Any]]] = {}  # by the photo's id
        photos, instances = self._photos, self._instances
        with json_content(self.annotations, f"{self.title}: annotations") as content:
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            for part, what in (("categories", "categories"), ("images", "photos")):
                count = Counter(one["id"] for one in content[part])
                if count and count.most_common(1)[0][1] > 1:
                    raise LabError(f"two {what} have the id {count.most_common(1)[0][0]!r}")
            for photo in content["images"]:
                file = str(photo["file_name"]).replace("\\", "/")
                below(self.images, file, self.annotations)
                stem = file.rpartition(".")[0] or file
                if stem in photos:
                    raise LabError(f"two photos are named '{stem}'")
                photos[stem] = {**photo, "file_name": file}
            photo_ids = {photo["id"] for photo in photos.values()}
            for one in content["annotations"]:
                with about(f"annotation {one.get('id')}"):
                    if one["category_id"] not in categories:
                        raise LabError(
                            f"category {one['category_id']!r} is none of the json's "
                            f"{len(categories)}"
                        )
                    if one["image_id"] not in photo_ids:
                        raise LabError(f"there is no photo of id {one['image_id']!r}")
                    if not one.get("segmentation"):
                        raise LabError("has no segmentation, only a box")
                    _is_crowd(one)
                    if not math.isfinite(float(one.get("area") or 0)):
                        raise LabError(f"area is {one['area']!r}; it must be a finite number")
                instances.setdefault(one["image_id"], []).append(one)
            if not photos:
                raise LabError("holds no photo")
            if len(set(categories.values())) < len(categories):
                raise LabError("has two categories of one name")
        self.categories = dict(sorted(categories.items()))


def _is_crowd(one: Mapping[str, Any]) -> bool:
    return bool(int(one.get("iscrowd") or 0))  # some tools write texts
