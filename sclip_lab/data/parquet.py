"""Hugging Face data sets on disk: parquet shards, or the arrow folder of ``save_to_disk``.

An image is a struct of ``bytes`` and ``path``, or bare bytes; so is a mask. Errors about them are
those of files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.base import Dataset, Sample, select, selection_words
from sclip_lab.data.class_ids import ClassIds, vocabulary_of
from sclip_lab.data.decode import read_image
from sclip_lab.data.digests import file_digests, proof
from sclip_lab.data.file_dataset import fitted
from sclip_lab.data.vocabulary import Vocabulary

_SHARD = re.compile(r"(?P<split>.+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?|-\d+)?")
IMAGE_COLUMNS = ("image", "img", "photo", "pixel_values")
MASK_COLUMNS = ("mask", "label", "labels", "annotation", "segmentation_mask", "segmentation", "seg")
NAME_COLUMNS = ("name", "file_name", "filename", "image_id", "id")


class HuggingFace(Dataset):
    """Photos and masks in the columns of a table.

    Args:
        root: a folder with ``*.parquet`` below it, or a folder of ``save_to_disk``.
        split: the part, as the shards are named: ``data/train-00000-of-00002.parquet`` or the
            folder ``train``; None if there is only one.
        image: column of the photos; None takes the one named image, img or photo.
        mask: column of the masks; None takes the one named mask, label, annotation or the like.
        name, vocabulary, ignore_index, reduce_zero_label, label_map, palette, mask_resize, limit,
            sample, seed, expected: see `sclip_lab.data.folder.Folder`.

    Raises:
        LabError: no such folder, split or column.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        vocabulary: str | Sequence[str] | Vocabulary,
        split: str | None = None,
        image: str | None = None,
        mask: str | None = None,
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        label_map: Mapping[Any, Any] | None = None,
        palette: str | Mapping[Any, Any] | Sequence[Any] | None = None,
        mask_resize: Literal["nearest"] | None = None,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        expected: int | Sequence[int] | None = None,
    ) -> None:
        self.name, self.title = name, f"data set '{name}'"
        self.root = Path(root).expanduser()
        self._shards, self.split = self._choose_split(split)
        self.vocabulary = vocabulary_of(vocabulary, self.root)
        self.ignore_index, self.mask_resize = ignore_index, mask_resize
        self.class_ids = ClassIds(
            self.title, self.vocabulary, self.root, ignore_index, label_map, reduce_zero_label,
            palette,
        )  # fmt: skip
        columns = _Shard(self._shards[0], self.title).columns
        self.image = self._column("image", image, columns, IMAGE_COLUMNS)
        self.mask = self._column("mask", mask, columns, MASK_COLUMNS)
        rows = self._rows(columns)
        self._names = select(list(rows), limit, sample, seed)
        self._places = {name: rows[name] for name in self._names}
        self.selection = selection_words(limit, sample, seed)
        self.expected = expected
        self._proofs: dict[Path, Any] = {}

    @property
    def names(self) -> list[str]:
        return self._names

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        shard, row = self._places[name]
        source = f"{shard} row {row}"
        cells = self._open(shard).cells(row, (self.image, self.mask))
        if self._proofs and proof(shard) != self._proofs[shard]:
            raise LabError(
                f"{shard}: the file has changed since it was hashed; leave the data alone and "
                "start again"
            )
        photo = read_image(source, _content(cells[0], self.image, source))
        mask = self.class_ids.from_content(_content(cells[1], self.mask, source), source)
        size = photo.shape[0], photo.shape[1]
        return Sample(name, photo, fitted(mask, size, self.mask_resize, f"photo {source}"))

    @cached_property
    def key(self) -> str:
        """sha256 over the shards, the rows that are taken, and the way they are read."""
        reading = {
            **self.class_ids.reading, "image": self.image, "mask": self.mask,
            "mask_resize": self.mask_resize,
        }  # fmt: skip
        used = sorted({shard for shard, _ in self._places.values()})
        self._proofs = {shard: proof(shard) for shard in used}
        digests = dict(zip(used, file_digests(used, f"hashing {self.name}", bounded=False),
                           strict=True))  # fmt: skip
        digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
        for name, (shard, row) in self._places.items():
            digest.update(f"\n{name}\t{digests[shard]}\t{row}".encode())
        return digest.hexdigest()

    def _open(self, shard: Path) -> _Shard:
        """The shard, which stays open: samples are usually read in order."""
        opened = getattr(self, "_opened", None)
        if opened is None or opened.path != shard:
            opened = self._opened = _Shard(shard, self.title)
        return opened

    @staticmethod
    def splits(root: Path) -> dict[str, list[Path]]:
        """{split: its shards} by the names of files and folders; empty if there are none."""
        files = sorted([*root.rglob("*.parquet"), *root.rglob("data-*.arrow")])
        by_split: dict[str, list[Path]] = {}
        for file in files:
            folder = file.parent.name if file.parent != root else ""
            match = _SHARD.fullmatch(file.stem)
            split = match["split"] if match and file.suffix == ".parquet" else folder
            if split.isdecimal() or split in ("data", "part"):
                split = folder  # such as train/0000.parquet
            by_split.setdefault(split, []).append(file)
        return by_split

    def mask_content(self, index: int) -> bytes:
        """The bytes of the mask at ``index``, as they are stored."""
        shard, row = self._places[self._names[index]]
        (cell,) = self._open(shard).cells(row, (self.mask,))
        return _content(cell, self.mask, f"{shard} row {row}")

    def _choose_split(self, split: str | None) -> tuple[list[Path], str]:
        if not self.root.is_dir():
            raise LabError(f"{self.title}: no folder {self.root} (config key dataset.root)")
        by_split = self.splits(self.root)
        if not by_split:
            raise LabError(f"{self.title}: neither *.parquet nor data-*.arrow below {self.root}")
        if split is None and len(by_split) == 1:
            (split,) = by_split
        if split not in by_split:
            raise LabError(f"{self.title}: {unknown('dataset.split', str(split), by_split)}")
        return by_split[split], split

    def _column(
        self, key: str, name: str | None, columns: Sequence[str], usual: Sequence[str]
    ) -> str:
        if name is None:
            fitting = [column for column in usual if column in columns]
            if len(fitting) != 1:
                raise LabError(
                    f"{self.title}: dataset.{key} must name the column; there are "
                    f"{', '.join(columns)}"
                )
            return fitting[0]
        if name not in columns:
            raise LabError(f"{self.title}: {unknown(f'column dataset.{key}', name, columns)}")
        return name

    def _rows(self, columns: Sequence[str]) -> dict[str, tuple[Path, int]]:
        """{name: (shard, row)} in the order of the table; a column gives the names if it can."""
        naming = next((column for column in NAME_COLUMNS if column in columns), "")
        rows: list[tuple[str, Path, int]] = []
        for shard in self._shards:
            opened = _Shard(shard, self.title)
            if missing := {self.image, self.mask} - set(opened.columns):
                raise LabError(f"{shard}: has no column {', '.join(sorted(missing))}")
            names = opened.texts(naming) if naming in opened.columns else [""] * sum(opened.groups)
            rows += [(name, shard, row) for row, name in enumerate(names)]
        if len({name for name, _, _ in rows}) < len(rows):  # not named, or not uniquely
            rows = [(f"{n:06d}", shard, row) for n, (_, shard, row) in enumerate(rows)]
        return {name: (shard, row) for name, shard, row in rows}


class _Shard:
    """One file of rows. One group of rows is in memory at a time."""

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self._read: Callable[..., pa.Table]
        self._loaded: tuple[int, tuple[str, ...], pa.Table] | None = None
        try:
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                self.columns, self._read = file.schema_arrow.names, file.read_row_group
                groups = range(file.metadata.num_row_groups)
                self.groups = [file.metadata.row_group(group).num_rows for group in groups]
            else:
                stream = pa.ipc.open_stream(pa.memory_map(str(path)))
                batches, self.columns = list(stream), stream.schema.names
                self._read = lambda group, columns: batches[group].select(columns)
                self.groups = [len(batch) for batch in batches]
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise LabError(f"{title}: {path} cannot be read ({reason})") from error

    def texts(self, column: str) -> list[str]:
        """A column as texts."""
        tables = [self._group(group, (column,)) for group in range(len(self.groups))]
        return [str(value) for table in tables for value in table.column(0).to_pylist()]

    def cells(self, row: int, columns: tuple[str, ...]) -> list[Any]:
        """Some columns of one row, as Python values."""
        group = 0
        while row >= self.groups[group]:
            row -= self.groups[group]
            group += 1
        table = self._group(group, columns)
        return [table.column(column)[row].as_py() for column in columns]

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        if self._loaded is None or self._loaded[:2] != (group, columns):
            try:
                self._loaded = (group, columns, self._read(group, columns=list(columns)))
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise LabError(f"{self.path}: cannot be read ({reason})") from error
        return self._loaded[2]


def _content(cell: Any, column: str, source: str) -> bytes:
    """The bytes of an image cell."""
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(content, bytes) and content:
        return content
    path = cell.get("path") if isinstance(cell, Mapping) else None
    if path:
        raise LabError(
            f"{source}: column '{column}' holds the path {path} without the bytes; embed the "
            "images first (datasets: Image(decode=False), or push with embedded files)"
        )
    raise LabError(f"{source}: column '{column}' holds no image, but {type(cell).__name__}")
