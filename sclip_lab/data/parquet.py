"""Hugging Face data sets on disk: parquet shards, or the arrow folder of ``save_to_disk``.

An image is a struct of ``bytes`` and ``path``, or bare bytes; so is a mask. They are read as image
files are, and errors name shard and row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.base import select, selection_words
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.decode import first_line
from sclip_lab.data.digests import Proof, proof
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.vocabulary import Vocabulary

_SHARD = re.compile(r"(?P<split>.+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?|-\d+)?")
_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})(?:-|$)")
IMAGE_COLUMNS = ("image", "img", "photo", "pixel_values")
MASK_COLUMNS = ("mask", "label", "labels", "annotation", "segmentation_mask", "segmentation", "seg")
NAME_COLUMNS = ("name", "file_name", "filename", "image_id", "id")


class HuggingFace(FileDataset):
    """Photos and masks in the columns of a table.

    Args:
        root: a folder with ``*.parquet`` below it, or a folder of ``save_to_disk``.
        split: the part, as the shards are named: ``data/train-00000-of-00002.parquet`` or the
            folder ``train``; None if there is only one.
        image: column of the photos; None takes the one named image, img, photo or pixel_values.
        mask: column of the masks; None takes the one named mask, label, annotation or the like.
        name, vocabulary, ignore_index, reduce_zero_label, label_map, palette, mask_resize, limit,
            sample, seed, expected: see `sclip_lab.data.folder.Folder`.

    Raises:
        LabError: no such folder, split or column.
    """

    bounded = False  # a shard holds many photos

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
        self.name = name
        self.root = Path(root).expanduser()
        self._shards, self.split = self._choose_split(split)
        self.vocabulary = Vocabulary.typed(vocabulary, "vocabulary", self.root)
        self.ignore_index, self.mask_resize = ignore_index, mask_resize
        self.class_ids = ClassIds(
            self.title, self.vocabulary, self.root, ignore_index, label_map, reduce_zero_label,
            palette,
        )  # fmt: skip
        columns = _Shard(self._shards[0]).columns
        self.image = self._column("image", image, columns, IMAGE_COLUMNS)
        self.mask = self._column("mask", mask, columns, MASK_COLUMNS)
        rows = self._rows(next((name for name in NAME_COLUMNS if name in columns), ""))
        self._names = select(list(rows), limit, sample, seed)
        self._places = {name: rows[name] for name in self._names}
        self.selection = selection_words(limit, sample, seed, len(rows))
        self.expected = expected
        self._proofs: dict[Path, Proof] = {}

    def image_path(self, name: str) -> Path:
        """Shard and row of a sample, for errors."""
        shard, row = self._places[name]
        return Path(f"{shard} row {row}")

    def photo_content(self, name: str) -> bytes:
        return self._content(name, self.image)

    def mask_content(self, name: str) -> bytes:
        return self._content(name, self.mask)

    def files(self, name: str) -> list[Path]:
        return [self._places[name][0]]

    def annotation_digest(self, name: str) -> str:
        """The sample's row in its shard; the digest of the shard covers what the row holds."""
        return str(self._places[name][1])

    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        assert content is not None
        return self.class_ids.from_content(content, self.image_path(name))

    @cached_property
    def key(self) -> str:
        """sha256 over the shards, the rows that are taken, and the way they are read."""
        self._proofs = {shard: proof(shard) for shard in self._shards}
        return super().key

    @property
    def reading(self) -> dict[str, Any]:
        return {**super().reading, "image": self.image, "mask": self.mask}

    def _content(self, name: str, column: str) -> bytes:
        shard, row = self._places[name]
        cell = self._open(shard).cell(row, column)
        if self._proofs and proof(shard) != self._proofs[shard]:
            raise LabError(
                f"{shard}: the file has changed since it was hashed; leave the data alone and "
                "start again"
            )
        if isinstance(cell, Mapping) and cell.get("path") and not cell.get("bytes"):
            raise LabError(
                f"{shard} row {row}: column '{column}' holds the path {cell['path']} without the "
                "bytes; embed the images first (datasets: Image(decode=False), or push with "
                "embedded files)"
            )
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if not isinstance(content, bytes) or not content:
            kind = type(cell).__name__
            raise LabError(f"{shard} row {row}: column '{column}' holds no image, but {kind}")
        return content

    def _open(self, shard: Path) -> _Shard:
        """The shard, which stays open: samples are usually read in order."""
        opened = getattr(self, "_opened", None)
        if opened is None or opened.path != shard:
            opened = self._opened = _Shard(shard)
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
        stems = [shard.stem for shard in by_split[split]]
        numbered = [match for stem in stems if (match := _NUMBERED.search(stem))]
        expected = range(int(numbered[0][2])) if numbered else ()
        if numbered and sorted(int(match[1]) for match in numbered) != list(expected):
            raise LabError(
                f"{self.title}: of split '{split}' each of {len(expected)} shards must lie below "
                f"{self.root} once; there are {', '.join(stems[:8])}"
            )
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

    def _rows(self, naming: str) -> dict[str, tuple[Path, int]]:
        """{name: (shard, row)} in the order of the table. The names are those of the column
        ``naming`` if they all differ, else numbers."""
        rows: list[tuple[str, Path, int]] = []
        for shard in self._shards:
            opened = _Shard(shard)
            if missing := {self.image, self.mask} - set(opened.columns):
                raise LabError(f"{shard}: has no column {', '.join(sorted(missing))}")
            names = opened.texts(naming) if naming in opened.columns else [""] * sum(opened.groups)
            rows += [(name, shard, row) for row, name in enumerate(names)]
        names_of_rows = {name for name, _, _ in rows}
        if "" in names_of_rows or len(names_of_rows) < len(rows):
            rows = [(f"{n:06d}", shard, row) for n, (_, shard, row) in enumerate(rows)]
        return {name: (shard, row) for name, shard, row in rows}


class _Shard:
    """One file of a table. It keeps one group of rows in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group: int | None = None
        self._columns: dict[str, Any] = {}  # of the group in memory
        self._read: Callable[..., Any]
        with self._named():
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

    def texts(self, column: str) -> list[str]:
        """A column as texts."""
        groups = range(len(self.groups))
        return [str(value) for g in groups for value in self._column(g, column).to_pylist()]

    def cell(self, row: int, column: str) -> Any:
        """One cell as a Python value."""
        group = 0
        while row >= self.groups[group]:
            row -= self.groups[group]
            group += 1
        return self._column(group, column)[row].as_py()

    def _column(self, group: int, column: str) -> Any:
        if group != self._group:
            self._group, self._columns = group, {}
        if column not in self._columns:
            with self._named():
                self._columns[column] = self._read(group, columns=[column]).column(0)
        return self._columns[column]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise LabError(f"{self.path}: cannot be read ({first_line(error)})") from error
