"""Values against annotations: a table of what is right and wrong, written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from sclip_lab.core.errors import LabError, about
from sclip_lab.core.values import check, check_arguments, within

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int), (1, float), (1.5, float), (True, bool), ("a", str), (None, int | None),
        ([1, 2], Sequence[int]), ((1, 2), tuple[int, int]), ([], list[str]), ("x", Literal["x", 1]),
        ({"a": [1.0]}, Mapping[str, Any]), ("any", Any), ("p", str | Path), (Path("p"), Path),
    ],
)  # fmt: skip
def test_right_values(value: Any, annotation: Any) -> None:
    check("key", value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "key: True must be a whole number"),
        (1.0, int, r"key: 1\.0 must be a whole number"),
        (NAN, float, "key: nan must be a finite number"),
        (INF, float | None, "key: inf must be a finite number"),
        ("a", float | None, "key: 'a' must be a finite number or null"),
        ("1", float, "key: '1' must be a finite number"),
        (1, bool, "key: 1 must be true or false"),
        (None, str, "key: None must be text"),
        ("abc", Sequence[str], "key: 'abc' must be a list of text"),
        ([1, "a"], Sequence[int], "a list of a whole number"),
        ([1], tuple[int, int], "a list of 2"),
        ({"a": {"b": [NAN]}}, Mapping[str, Any], r"key\.a\.b\.0: nan must be a finite"),
        ({"a": "x"}, Mapping[int, int], "a mapping to a whole number"),
        (NAN, Any, "key: nan must be a finite number"),
        (3, str | Path, "key: 3 must be text or a Path"),
        ("xy", Literal["xyz", 1] | None, "unknown key 'xy'; did you mean xyz"),
        ("x" * 500, int, r"key: 'xxx.*\.\.\. must be"),
    ],
)
def test_wrong_values_are_named(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(LabError, match=message) as caught:
        check("key", value, annotation)
    assert len(str(caught.value)) < 200


def test_arguments_are_checked_by_their_annotations() -> None:
    def function(x: int, y: float = 1.0, z: Any = None) -> None:
        """Never called."""

    check_arguments(function, {"x": 1, "y": 2, "z": None})
    with pytest.raises(LabError, match=r"mix\.y: nan"):
        check_arguments(function, {"x": 1, "y": NAN}, "mix.")


def test_ranges() -> None:
    within("a", 1, 1, 2)
    with pytest.raises(LabError, match="a 1 must be above 1 and at most 2"):
        within("a", 1, 1, 2, above=True)
    with pytest.raises(LabError, match="a nan must be at least 0"):
        within("a", NAN, 0)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a.pt: take backbone=ViT-B-16", "backbone: a.pt: take backbone=ViT-B-16"),
        ("set backbone.mean", "backbone: set backbone.mean"),
        ("unknown backbone 'x'", "unknown backbone 'x'"),
        ("backbone x: no", "backbone x: no"),
    ],
)
def test_an_error_says_what_it_is_about(message: str, shown: str) -> None:
    with pytest.raises(LabError) as caught, about("backbone"):
        raise LabError(message)
    assert str(caught.value) == shown


def test_an_error_is_one_line_whatever_the_names_hold() -> None:
    error = LabError("file a\nb\x1b[31m\ud800 is not \u00e9")
    assert str(error) == r"file a\nb\x1b[31m\ud800 is not " + "\u00e9"
