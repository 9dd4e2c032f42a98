"""What checks the shapes of `sclip_lab.core.shapes` while tests run.

pytest's option ``--jaxtyping-packages`` puts `check` around every function of the packages that
pyproject.toml names. Only shapes are checked: other annotations are mypy's.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])


def check(function: F) -> F:
    """``function`` that refuses tensors of other shapes than its annotations say."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # a name that only the type checker imports
        return function
    shapes = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    return typing.cast(F, beartype(function))


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
