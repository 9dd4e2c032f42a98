"""A folder of photos and one json with the instances of all, in COCO's format and own categories.

Format: https://cocodataset.org/#format-data, as CVAT, Label Studio, Roboflow and others export it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import select, selection_words
from sclip_lab.data.class_ids import BACKGROUND, IGNORE, ClassIds, vocabulary_of
from sclip_lab.data.decode import LARGEST_JSON, regular_file
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.paths import below
from sclip_lab.data.polygons import segmentation
from sclip_lab.data.splits import filled, has_split
from sclip_lab.data.vocabulary import Vocabulary, readable


class CocoJson(FileDataset):
    """Photos with instances, drawn into masks of class ids.

    Args:
        name: what a table calls the data set.
        root: folder that the other paths start from.
        images: folder of the photos, below root; may hold {split}.
        annotations: the json, below root; may hold {split}.
        vocabulary: class names in id order, see `sclip_lab.data.folder.Folder`; every category must
            be one of them, or in label_map. None: "background", where unlabelled is not said, then
            the json's categories in the order of their ids, with blanks for underscores.
        unlabelled: class of pixels that no instance covers, or "ignore"; by default the class named
            background.
        label_map: {category name: class name, id or "ignore"}.
        overlap: which instance is seen where several lie: "smallest" by area, or the "last" of the
            json. Crowds lie below all others.
        crowd: "keep" regions marked iscrowd, or "ignore" their pixels.
        ignore_index: id of pixels that count nowhere.
        mask_resize: "nearest" where the json's sizes differ from those of the photos.
        split: what {split} stands for.
        limit, sample, seed: see `sclip_lab.data.base.select`.
        expected: how many samples the whole data set has.
        faults: takes what is wrong with single photos, in words; None raises the first.

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
        self.name, self._title, self._faults = name, f"data set '{name}'", faults
        self.root = Path(root).expanduser()
        if split is not None or has_split(images, annotations):
            images, annotations = filled(self.root, split, images, annotations)
        self.split = split or ""
        self.images, self.annotations = self.root / images, self.root / annotations
        photos, instances, categories = self._read()
        if vocabulary is None:
            names = [readable(category) for category in categories.values()]
            bare = [BACKGROUND] if unlabelled is None and BACKGROUND not in names else []
            vocabulary = Vocabulary.of(name, [[text] for text in [*bare, *names]])
        self.vocabulary = vocabulary_of(vocabulary, self.root)
        self.ignore_index = ignore_index
        self.class_ids = ClassIds(
            self._title, self.vocabulary, ignore_index, label_map, unlabelled=unlabelled
        )
        source = f"category of {self.annotations}"
        self._id_of = {n: self.class_ids.class_id(c, source) for n, c in categories.items()}
        self.overlap, self.crowd, self.mask_resize = overlap, crowd, mask_resize
        self.selection = selection_words(limit, sample, seed)
        self.expected = [expected] if isinstance(expected, int) else list(expected or ())
        self._photos, self._instances = photos, instances
        self._names = self._present(select(sorted(photos), limit, sample, seed))

    @property
    def reading(self) -> dict[str, Any]:
        """What changes a mask besides ``class_ids``."""
        return {**super().reading, "overlap": self.overlap, "crowd": self.crowd}

    def image_path(self, name: str) -> Path:
        """Where the photo of a sample lies."""
        return self.images / self._photos[name]["file_name"]

    def annotation_digest(self, name: str) -> str:
        """sha256 over a photo's size and instances, with classes in the place of categories."""
        photo = self._photos[name]
        content = [
            photo.get("height"), photo.get("width"),
            [[self._id_of[one["category_id"]], one.get("iscrowd", 0), one.get("area"),
              one["segmentation"]] for one in self._instances.get(photo["id"], ())],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        """A sample's mask; see `sclip_lab.data.file_dataset.FileDataset.read_ids`."""
        photo = self._photos[name]
        size = (int(photo.get("height") or photo_size[0]), int(photo.get("width") or photo_size[1]))
        if size != photo_size and self.mask_resize is None:
            return np.zeros(size, self.class_ids.dtype)  # refused by its size, drawn or not
        ids = np.full(size, -1, np.int64)
        crowds: list[tuple[int, np.ndarray, Mapping[str, Any]]] = []
        things: list[tuple[int, np.ndarray, Mapping[str, Any]]] = []
        for one in self._instances.get(photo["id"], ()):
            try:
                region = segmentation(one["segmentation"], size)
            except LabError as error:
                raise LabError(
                    f"{self.annotations}: annotation {one.get('id')} of {name}: {error}"
                ) from None
            layer = crowds if one.get("iscrowd") else things
            layer.append((one.get("area") or int(region.sum()), region, one))
        if self.overlap == "smallest":
            crowds.sort(key=lambda each: -each[0])
            things.sort(key=lambda each: -each[0])
        for _, region, one in crowds:
            ignored = self.crowd == IGNORE
            ids[region] = self.ignore_index if ignored else self._id_of[one["category_id"]]
        for _, region, one in things:
            ids[region] = self._id_of[one["category_id"]]
        if (ids < 0).any():
            ids[ids < 0] = self.class_ids.background()
        return ids.astype(self.class_ids.dtype)

    def _present(self, names: list[str]) -> list[str]:
        absent = [name for name in names if not self.image_path(name).is_file()]
        if absent:
            text = (
                f"{len(absent)} of {len(names)} photos of {self.annotations} are not there: "
                f"{', '.join(absent[:5])}; '{absent[0]}' needs {self.image_path(absent[0])}"
            )
            if self._faults is None:
                raise LabError(f"{self._title}: {text}")
            self._faults.append(text)
        return [name for name in names if name not in set(absent)]

    def _read(
        self,
    ) -> tuple[dict[str, Mapping[str, Any]], dict[int, list[Mapping[str, Any]]], dict[int, str]]:
        """{name: photo}, {photo id: its instances}, {category id: name}, ids in order."""
        path = self.annotations
        regular_file(path, f"{self._title}: annotations", LARGEST_JSON)
        try:
            content = json.loads(path.read_bytes())
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            photos: dict[str, Mapping[str, Any]] = {}
            known = set()
            for photo in content["images"]:
                file = str(photo["file_name"]).replace("\\", "/")
                below(self.images, file, path)
                stem = file.rpartition(".")[0] or file
                if stem in photos:
                    raise LabError(f"two photos are named '{stem}'")
                photos[stem] = {**photo, "file_name": file}
                known.add(photo["id"])
            instances: dict[int, list[Mapping[str, Any]]] = {}
            for one in content["annotations"]:
                if one["category_id"] not in categories:
                    raise LabError(
                        f"annotation {one.get('id')}: category {one['category_id']} is none of "
                        f"the json's {len(categories)}"
                    )
                if one["image_id"] not in known:
                    raise LabError(
                        f"annotation {one.get('id')}: there is no photo of id {one['image_id']}"
                    )
                if not one.get("segmentation"):
                    raise LabError(f"annotation {one.get('id')}: has no segmentation, only a box")
                instances.setdefault(one["image_id"], []).append(one)
        except LabError as error:
            raise LabError(f"{self._title}: {path}: {error}") from None
        except Exception as error:  # a json of a stranger may miss anything
            raise LabError(
                f"{self._title}: {path}: cannot be read as COCO's json ({error!r})"
            ) from error
        if not photos:
            raise LabError(f"{self._title}: {path} holds no photo")
        if len(set(categories.values())) < len(categories):
            raise LabError(f"{self._title}: {path} has two categories of one name")
        return photos, instances, dict(sorted(categories.items()))
