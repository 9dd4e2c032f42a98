"""Class names: one class a line, synonyms separated by commas, versioned by digest."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.decode import regular_file

DIRECTORY = Path(__file__).parent / "vocabularies"
LARGEST = 4_000_000  # bytes of a file


@dataclass(frozen=True)
class Vocabulary:
    """The names of a data set's classes, in id order.

    Attributes:
        name: what a table calls it.
        classes: for each class its synonyms; the first is the one shown.

    Raises:
        LabError: without classes, or with a class without a name.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise LabError(f"vocabulary '{self.name}' is empty; give one class a line")
        for index, synonyms in enumerate(self.classes):
            if not synonyms or not all(name.strip() for name in synonyms):
                raise LabError(
                    f"vocabulary '{self.name}', class {index}: empty name in {list(synonyms)}"
                )
            for name in synonyms:
                _check_letters(f"vocabulary '{self.name}', class {index}", name)
        seen: dict[str, int] = {}
        for index, shown in enumerate(self.names):
            if seen.setdefault(shown, index) != index:
                raise LabError(
                    f"vocabulary '{self.name}': classes {seen[shown]} and {index} are both "
                    f"'{shown}'; give each class its own name"
                )

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read a text file. Only blanks before a name are dropped: the field's lists are kept
        letter for letter, and one of them has a blank behind a name."""
        path = Path(path)
        if regular_file(path, "vocabulary file") > LARGEST:
            raise LabError(f"vocabulary file {path}: more than {LARGEST} bytes is no list of names")
        try:
            text = path.read_bytes().decode("utf-8-sig")  # Windows' editors write a mark in front
        except OSError as error:
            raise LabError(f"vocabulary file {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise LabError(f"vocabulary file {path}: not UTF-8 text ({error})") from error
        lines = text.replace("\r\n", "\n").split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        classes = tuple(tuple(name.lstrip() for name in line.split(",")) for line in lines)
        try:
            return cls(path.stem, classes)
        except LabError as error:
            raise LabError(f"{path}: {error}") from None

    @classmethod
    def named(cls, name: str) -> Vocabulary:
        """A vocabulary that comes with the package, or a path to one's own text file."""
        if name.endswith(".txt"):
            return cls.read(name)
        known = {path.stem: path for path in DIRECTORY.glob("*.txt")}
        if name not in known:
            raise unknown("vocabulary", name, known)
        return cls.read(known[name])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """The first synonym of each class, without the blanks of the official lists."""
        return [synonyms[0].strip() for synonyms in self.classes]

    @property
    def queries(self) -> list[str]:
        """All synonyms of all classes, in order: what is embedded as text."""
        return [name for synonyms in self.classes for name in synonyms]

    @property
    def query_classes(self) -> list[int]:
        """For each query the id of its class (non-decreasing)."""
        return [index for index, synonyms in enumerate(self.classes) for _ in synonyms]

    @cached_property
    def key(self) -> str:
        """sha256 over names and their order, independent of the file's name."""
        text = "\n".join(",".join(synonyms) for synonyms in self.classes)
        return hashlib.sha256(text.encode()).hexdigest()


def _check_letters(where: str, name: str) -> None:
    """Refuse what no reader sees but a text tower does. Two marks that join letters or keep them
    apart belong to the spelling of some languages."""
    for letter in name:
        visible = letter.isprintable() or unicodedata.category(letter) == "Zs"
        if not visible and letter not in "\u200c\u200d":
            raise LabError(
                f"{where}: {name[:60]!a} holds the character U+{ord(letter):04X}; "
                "names are plain text, one class a line"
            )
