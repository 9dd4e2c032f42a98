"""Values from yaml and command lines, checked against what a function's annotations say.

One place for type and finiteness, so that no function has to. What a number means, and so its
range, only the function knows; `within` says it in the same words.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Union

from sclip_lab.core.errors import LabError

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_LONGEST = 80
LARGEST_SEED = 2**63 - 1  # of torch's generators


def check(key: str, value: Any, wanted: Any) -> None:
    """Refuse a value of another type than an annotation's, and numbers that are not finite.

    >>> check("logit_scale", float("nan"), float)
    Traceback (most recent call last):
    sclip_lab.core.errors.LabError: logit_scale: nan must be a finite number

    Args:
        key: what the user calls it.
        value: from yaml: None, bool, int, float, str, list, tuple or mapping.
        wanted: a type of these, a union of such, Sequence, Mapping or Literal; of any other
            annotation only the finiteness of numbers is checked.

    Raises:
        LabError: naming key, value and what would be right.
    """
    if _is(value, wanted):
        return
    inner = _endless(value) if isinstance(value, Mapping | list | tuple) else None
    if inner is not None and _is(_finite_ones(value), wanted):  # not the whole mapping around it
        raise LabError(f"{key}{inner[0]}: {inner[1]} must be a finite number")
    raise LabError(f"{key}: {shown(value)} must be {_described(wanted)}")


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], prefix: str = ""
) -> None:
    """`check` for every value that a function's parameter of this name is annotated for.

    Raises:
        LabError: naming the first one that is wrong, ``prefix`` before its name.
    """
    hints, parameters = _hints(function), inspect.signature(function).parameters
    for name, value in values.items():
        if name in hints and value is not parameters[name].default:
            check(f"{prefix}{name}", value, hints[name])
        else:
            check(f"{prefix}{name}", value, Any)


def within(
    key: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a number outside of low .. high; ``above`` and ``below`` leave an end out.

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
    """A value in one line of bounded length."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except Exception:  # an annotation that only a type checker can resolve
        return {}


def _is(value: Any, wanted: Any) -> bool:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Annotated:
        return _is(value, arguments[0])
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if wanted in (None, type(None)):
        return value is None
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if wanted is str:
        return isinstance(value, str)
    if wanted is Any:
        return _finite(value)
    kind = origin or wanted
    if isinstance(kind, type) and kind in (tuple, list, Sequence, Collection):
        return _is_sequence(value, kind, arguments)
    if isinstance(kind, type) and kind in (dict, Mapping):
        element = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(_is(one, element) for one in value.values())
    if isinstance(kind, type) and kind is not object:
        return isinstance(value, kind)
    return _finite(value)


def _is_sequence(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return False
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        pairs = zip(value, arguments, strict=False)
        return len(value) == len(arguments) and all(_is(one, kind) for one, kind in pairs)
    element = arguments[0] if arguments else Any
    return all(_is(one, element) for one in value)


def _finite(value: Any) -> bool:
    """Whether all numbers in a value are."""
    return _endless(value) is None


def _finite_ones(value: Any) -> Any:
    """A value with 0 for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite_ones(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_finite_ones, value))
    return value if _finite(value) else 0.0


def _endless(value: Any, key: str = "") -> tuple[str, float] | None:
    """The first number in a value that is not finite, behind the key that leads to it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (key, value)
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    found = (_endless(part, f"{key}.{name}") for name, part in parts)
    return next((one for one in found if one is not None), None)


def _described(wanted: Any) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Annotated:
        return _described(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(one) for one in arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if wanted in _WORDS:
        return _WORDS[wanted]
    kind = origin or wanted
    if isinstance(kind, type) and kind in (tuple, list, Sequence, Collection):
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: {', '.join(map(_described, arguments))}"
        return "a list" + (f" of {_described(arguments[0])}" if arguments else "")
    if isinstance(kind, type) and kind in (dict, Mapping):
        of = _described(arguments[1]) if len(arguments) == 2 and arguments[1] is not Any else None
        return "a mapping" + (f" to {of}" if of else "")
    return "finite" if wanted is Any else f"a {getattr(wanted, '__name__', wanted)}"
