"""Check values from yaml and command lines against the annotations of functions.

Types and finiteness are checked here, so that functions need not. The range of a number is known to
its function alone, which calls `within`.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from sclip_lab.core.errors import LabError, unknown

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_LONGEST = 80
LARGEST_SEED = 2**63 - 1  # of torch's generators


def check(key: str, value: Any, annotation: Any) -> None:
    """Refuse a value whose type does not fit an annotation, and numbers that are not finite.

    >>> check("logit_scale", float("nan"), float)
    Traceback (most recent call last):
    sclip_lab.core.errors.LabError: logit_scale: nan must be a finite number

    Args:
        key: the value's name, as the user writes it.
        value: None, bool, int, float, str, list, tuple or mapping.
        annotation: one of these types, a union of them, Sequence, Mapping or Literal; or another
            class, of which the value must be an instance. Anything else allows all finite values.

    Raises:
        LabError: naming key, value and what would be right; did you mean, for a Literal.
    """
    for inner, part in leaves(value, key):
        if isinstance(part, float) and not math.isfinite(part):
            raise LabError(f"{inner}: {part} must be a finite number")
    if not _fits(value, annotation):
        if isinstance(value, str) and (choices := _choices(annotation)):
            raise unknown(key, value, choices)
        # Of numpy or torch.
        hint = "; .tolist() makes it a plain one" if hasattr(value, "tolist") else ""
        raise LabError(f"{key}: {shown(value)} must be {_described(annotation)}{hint}")


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], prefix: str = ""
) -> None:
    """`check` each value against the annotation of the function's parameter of that name.

    Raises:
        LabError: for the first wrong value, with ``prefix`` before its name.
    """
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hints = typing.get_type_hints(target)
    except Exception:  # an annotation that only a type checker can resolve
        hints = {}
    parameters = inspect.signature(function).parameters
    for name, value in values.items():
        if name in hints and value is not parameters[name].default:
            check(f"{prefix}{name}", value, hints[name])
        else:
            check(f"{prefix}{name}", value, Any)


def check_count(key: str, value: Any) -> None:
    """Refuse what is neither None nor a whole number of at least 1."""
    check(key, value, int | None)
    within(key, 1 if value is None else value, 1)


def within(
    key: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a number outside of low .. high.

    Args:
        key: the value's name, as the user writes it.
        value: the number; NaN is refused.
        low, high: the smallest and largest allowed number.
        above: refuse ``low`` itself too.
        below: refuse ``high`` itself too.

    Raises:
        LabError: naming key, value and range.
    """
    under = value <= low if above else value < low
    over = value >= high if below else value > high
    if under or over or math.isnan(value):
        parts = []
        if low > -math.inf:
            parts.append(f"{'above' if above else 'at least'} {low:g}")
        if high < math.inf:
            parts.append(f"{'below' if below else 'at most'} {high:g}")
        raise LabError(f"{key} {shown(value)} must be {' and '.join(parts)}")


def shown(value: Any) -> str:
    """A value in one line of at most 80 signs."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def form(value: Any) -> str:
    """Shape and type of what a function gave, as text: ``(2, 3) torch.int64 Tensor``."""
    parts = [tuple(value.shape), value.dtype] if hasattr(value, "dtype") else []
    return " ".join(map(str, [*parts, type(value).__name__]))


def leaves(value: Any, key: str = "", lists: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each value in nested mappings.

    With ``lists`` the items of a list are values, otherwise a whole list is one.

    >>> list(leaves({"a": {"b": 1}, "c": [2, 3]}))
    [('a.b', 1), ('c.0', 2), ('c.1', 3)]
    """
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif lists and isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        yield key, value
        return
    for name, part in parts:
        yield from leaves(part, f"{key}.{name}" if key else str(name), lists)


def _choices(annotation: Any) -> list[str]:
    """The texts that a Literal allows, alone or in a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [one for one in arguments if isinstance(one, str)]
    parts = arguments if origin in (Union, types.UnionType) else ()
    return [choice for part in parts for choice in _choices(part)]


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if annotation in (None, type(None)):
        return value is None
    kind = origin or annotation
    if not isinstance(kind, type) or kind in (object, Any):
        return True
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (tuple, list, Sequence, Collection):
        return _fits_sequence(value, kind, arguments)
    if kind in (dict, Mapping):
        element = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(_fits(one, element) for one in value.values())
    return isinstance(value, kind)


def _fits_sequence(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return False
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return all(_fits(one, arguments[0] if arguments else Any) for one in value)


def _described(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(one) for one in arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if annotation in _WORDS:
        return _WORDS[annotation]
    kind = origin or annotation
    if isinstance(kind, type) and kind in (tuple, list, Sequence, Collection):
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: {', '.join(map(_described, arguments))}"
        return "a list" + (f" of {_described(arguments[0])}" if arguments else "")
    if isinstance(kind, type) and kind in (dict, Mapping):
        of = _described(arguments[1]) if len(arguments) == 2 and arguments[1] is not Any else None
        return "a mapping" + (f" to {of}" if of else "")
    return f"a {getattr(annotation, '__name__', annotation)}"
