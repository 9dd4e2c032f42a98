"""Class names in id order, from a text file with one class a line, a csv, a json, or a list."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sclip_lab.core.errors import LabError, about, unknown
from sclip_lab.data.decode import csv_rows, read_text

DIRECTORY = Path(__file__).parent / "vocabularies"
LARGEST = 4_000_000  # bytes of a file
SUFFIXES = (".txt", ".csv", ".json")
ID_COLUMNS = ("id", "index", "idx", "pixel value", "value", "class id", "class_id", "label_id")
NAME_COLUMNS = ("name", "class", "class name", "class_name", "label", "category", "title")

# Patterns of names that are surely mistakes -> what to write instead. The first that fits counts.
_NOT_MEANT = {
    r"[(\[]?\d+\s*[:)\]=|\t]\s*[^\d\s]|\d+\.\s+\S|\d+\s*-\s+\S|.*\S\s*[:=|]\s*\d+$|n\d{8}\s":
        "write the name without its number; the line's place is the id",
    r"([\"'`]).*\1$": "write it without quotes",
    r"[\"`\u2018\u201c-\u201e\u00ab\u00bb]|.*[\"`\u201c-\u201e\u00ab\u00bb]$":
        "write it without quotes; a comma separates synonyms",
    r".*[;|]": "separate synonyms by commas",
    r"(.* )?(#|//)|%": "write no comments in a list of names",
    r".*[<>{}\[\]]": "the file is markup or code, no list of names",
    r"[-*] ": "write the name without the mark of a list",
    r".*[:=]$": "write it without the sign at its end",
    r"(\d{1,3}[,\t ]\s*){3}\S|.*\S(\s*[,\t ]\s*\d{1,3}){3}$":
        "write the name alone; colours belong into dataset.palette",
    r".*_": "write '{}', with blanks",
}  # fmt: skip
_NUMBER_FIRST = re.compile(r"(?P<number>\d+)\s+(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)\s+[(\[]?(?P<number>\d+)[)\]]?$")
_HEADERS = {*ID_COLUMNS, *NAME_COLUMNS, "names", "classes", "labels"} - {"title"}


@dataclass(frozen=True)
class Vocabulary:
    """The names of a data set's classes, in id order. Each class has its own, non-empty name."""

    name: str  # what a table calls it
    classes: tuple[tuple[str, ...], ...]  # for each class its synonyms; tables show the first

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
        first_class: dict[str, int] = {}
        for index, shown in enumerate(self.names):
            if first_class.setdefault(shown, index) != index:
                raise LabError(
                    f"vocabulary '{self.name}': classes {first_class[shown]} and {index} are both "
                    f"'{shown}'; give each class its own name"
                )

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read a file of class names.

        ========== =============================================================================
        JSON       a list of names, {id: name}, {name: id}, or COCO's {"categories": [...]}; a file
                   that begins with a bracket is JSON, whatever its suffix
        .csv, .tsv a column of names, with or without a column of ids (Roboflow's _classes.csv)
        others     one class a line in id order, synonyms separated by commas. Only blanks before a
                   name are dropped: the field's lists are kept letter for letter.
        ========== =============================================================================

        Raises:
            LabError: the file cannot be read, its ids are not 0 .. n - 1, or a name is surely a
                mistake: numbered, in quotes, a comment, markup, with a colour or an underscore.
        """
        path = Path(path)
        text = read_text(path, "vocabulary file", LARGEST)
        with about(path):
            if text.lstrip().startswith(("[", "{")):
                return cls.of(path.stem, _from_json(text))
            if path.suffix.lower() in (".csv", ".tsv"):
                return cls.of(path.stem, _from_csv(text))
            lines = text.replace("\r\n", "\n").split("\n")
            while lines and not lines[-1].strip():
                lines.pop()
            _refuse_numbers(lines)
            if len(lines) > 1 and lines[0].partition(",")[0].strip().casefold() in _HEADERS:
                raise LabError(f"the first line, {lines[0]!r}, heads a table; write names alone")
            return cls.of(path.stem, lines)

    @classmethod
    def of(cls, name: str, classes: Iterable[Any]) -> Vocabulary:
        """Make a vocabulary from one entry for each class: a text, which is split at commas, or a
        list of synonyms. Entries are in id order, or in a mapping {id: name} or {name: id}.
        """
        synonyms = []
        for index, entry in enumerate(_in_order(classes)):
            names = entry.split(",") if isinstance(entry, str) else entry
            if not _are_texts(names):
                raise LabError(f"class {index}: {entry!r} is no name; put names like it in quotes")
            synonyms.append(tuple(name.lstrip(" \t") for name in names))
            for text in map(str.strip, synonyms[-1]):
                remedy = next((r for p, r in _NOT_MEANT.items() if re.match(p, text)), None)
                if remedy is not None:
                    raise LabError(f"class {index} is {text!r}; {remedy.format(readable(text))}")
        numbers = [[text for text in names if text.strip().isdecimal()] for names in synonyms]
        if numbers and all(numbers):
            raise LabError(
                f"every class has a number, such as {numbers[0][0]!r}; write names alone"
            )
        return cls(name, tuple(synonyms))

    @classmethod
    def typed(cls, classes: Any, name: str = "given", root: Path = Path()) -> Vocabulary:
        """Make a vocabulary from what a call or a yaml states: a vocabulary, names as `of` takes
        them, or a text as `named` takes it. The path of a file may also start at ``root``.

        Raises:
            LabError: `of` or `named` refuses it, or it is of another kind.
        """
        if isinstance(classes, Vocabulary):
            return classes
        if isinstance(classes, str):
            below_root = root / Path(classes).expanduser()
            try:
                return cls.named(str(below_root) if below_root.is_file() else classes)
            except LabError as error:
                raise LabError(f"{error}; class names are a list, a text for each class") from None
        if not isinstance(classes, Iterable):
            raise LabError(f"class names are a {type(classes).__name__}; give a list of texts")
        classes = _in_order(classes)
        split = [entry.split(",") if isinstance(entry, str) else entry for entry in classes]
        return cls.of(name, [
            [text.strip() for text in entry] if _are_texts(entry) else entry for entry in split
        ])  # fmt: skip

    @classmethod
    def named(cls, name: str) -> Vocabulary:
        """Read a vocabulary by ``name``: one that comes with the package, or a path to a file."""
        path = DIRECTORY / f"{name}.txt"
        built_in = path.is_file() and path.parent == DIRECTORY
        if name.lower().endswith(SUFFIXES) or (os.path.isfile(name) and not built_in):
            return cls.read(Path(name).expanduser())
        if not built_in:
            raise unknown("vocabulary", name, [file.stem for file in DIRECTORY.glob("*.txt")])
        return cls.read(path)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """The first synonym of each class, without the blanks that official lists put around it."""
        return [synonyms[0].strip() for synonyms in self.classes]

    @property
    def queries(self) -> list[str]:
        """All synonyms of all classes, in order. Each is embedded as a text."""
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


def _are_texts(names: Any) -> bool:
    return isinstance(names, Sequence) and all(isinstance(name, str) for name in names)


def readable(name: str) -> str:
    """A class name from a label tool as a text tower should read it: blanks replace underscores."""
    return " ".join(name.replace("_", " ").split())


def _from_json(text: str) -> list[Any]:
    try:
        content = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise LabError(f"cannot be read as JSON ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        content = content["categories"]
    if isinstance(content, dict):
        return _in_order(content)
    if content and all(isinstance(entry, dict) for entry in content):
        return _ordered([(entry.get("id"), entry.get("name")) for entry in content])
    return content


def _in_order(classes: Iterable[Any]) -> list[Any]:
    """Return names in id order, from a list, {id: name} or {name: id}."""
    if isinstance(classes, Set):
        raise LabError("class names are a set, which has no order; give a list of texts")
    if not isinstance(classes, Mapping):
        return list(classes)
    if all(type(value) is int for value in classes.values()):
        return _ordered([(value, key) for key, value in classes.items()])
    return _ordered(list(classes.items()))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a mapping; equal keys, of which json takes the last, are refused."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return content


def _from_csv(text: str) -> list[Any]:
    try:
        rows = csv_rows(text.splitlines())
    except csv.Error as error:
        raise LabError(f"cannot be read as csv ({error})") from error
    header = [cell.casefold() for cell in rows[0]] if rows else []
    if aliases := [title for title in header if title.startswith(("synonym", "alias"))]:
        raise LabError(
            f"column '{aliases[0]}' is not read; write synonyms beside the name: \"cat,kitten\""
        )
    name, number = (
        next((header.index(title) for title in titles if title in header), None)
        for titles in (NAME_COLUMNS, ID_COLUMNS)
    )
    if name is not None:
        rows = rows[1:]
    elif header and len(header) <= 2:  # no header: names, or ids and names
        number, name = (0, 1) if len(header) == 2 else (None, 0)
    else:
        raise LabError(f"the first line names no column of classes; use {', '.join(NAME_COLUMNS)}")
    columns = max(name, -1 if number is None else number)
    for row in rows:
        if len(row) <= columns:
            raise LabError(f"line {row} has fewer columns than the first")
    names = [row[name] for row in rows]
    return names if number is None else _ordered([(row[number], row[name]) for row in rows])


def _ordered(pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Names in the order of their ids, which must be 0 .. n - 1."""
    try:
        numbers = [int(number) for number, _ in pairs]
    except (TypeError, ValueError):
        raise LabError(
            f"ids such as {pairs[0][0]!r} are no whole numbers; give a list of names, {{id: name}} "
            "or {name: id}"
        ) from None
    if sorted(numbers) != list(range(len(numbers))):
        raise LabError(
            f"ids are {min(numbers)}..{max(numbers)} for {len(numbers)} classes, not "
            f"0..{len(numbers) - 1}; give the names alone, in the order of the class ids that "
            "masks have after label_map"
        )
    return [name for _, (_, name) in sorted(zip(numbers, pairs, strict=True), key=lambda p: p[0])]


def _refuse_numbers(lines: Sequence[str]) -> None:
    """Refuse lists whose lines all begin or end with their place in the list."""
    for pattern, where in ((_NUMBER_FIRST, "begins"), (_NUMBER_LAST, "ends")):
        matches = [match for line in lines if (match := pattern.match(line.strip()))]
        numbers = [int(match["number"]) for match in matches]
        # "thing 0", "thing 1" are names that need their numbers.
        names = {match["name"] for match in matches}
        rising = numbers == sorted(set(numbers))
        # Two lines may be "1 euro coin" and "5 euro note"; three are a list with gaps.
        if len(names) == len(lines) > 1 and rising and (len(lines) > 2 or numbers[0] < 2):
            raise LabError(f"every line {where} with a number; write the names alone, in id order")


def _check_letters(where: str, name: str) -> None:
    """Refuse characters that a reader does not see but a text tower does."""
    # Some languages are spelled with U+200C and U+200D, which keep letters apart or join them.
    for letter in name:
        no_break = unicodedata.category(letter) == "Zs" and letter != " "
        if no_break or (not letter.isprintable() and letter not in "\u200c\u200d"):
            hint = "a plain blank is meant" if no_break else "names are plain text"
            raise LabError(
                f"{where}: {name[:60]!a} holds the character U+{ord(letter):04X}; {hint}, "
                "one class a line"
            )
