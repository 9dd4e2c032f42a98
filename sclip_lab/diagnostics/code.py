"""A digest of the code that a measure's numbers come out of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sclip_lab.core import fingerprint
from sclip_lab.core.canonical import digest
from sclip_lab.diagnostics import registry
from sclip_lab.diagnostics.measure import Measure

# What every measure runs through.
ALWAYS = tuple(f"sclip_lab.diagnostics.{name}" for name in ("layers", "measure", "observation"))
_HOME = registry.__name__


def of(name: str) -> str:
    """Digest of a measure's code; "" for a name that is no measure.

    It is that of the measure's own functions in the registry, and of the modules that those call.
    Its words, range and direction do not count, nor does another measure of the registry.
    """
    known = registry.MEASURES.get(name)
    return "" if known is None else _of(known)


@cache
def _of(measure: Measure) -> str:
    seen: dict[int, Any] = {}
    starts = (measure.compute, measure.of_weights, measure.of_tokens, measure.of_layer)
    for start in (*starts, measure.pool):
        _follow(start, seen)
    functions = [thing for thing in seen.values() if isinstance(thing, FunctionType)]
    own = sorted({f.__code__.co_firstlineno for f in functions if f.__module__ == _HOME})
    called = [f for f in functions if f.__module__ != _HOME]
    modules = {f.__module__ for f in called if f.__module__.startswith("sclip_lab.")}
    return digest(
        {
            "own": fingerprint.of_lines(_HOME, own),
            "called": sorted(f"{f.__module__}.{f.__qualname__}" for f in called),
            "values": sorted(repr(v) for v in seen.values() if not isinstance(v, FunctionType)),
            "modules": fingerprint.of_modules([*ALWAYS, *modules]),
        }
    )


def _follow(thing: Any, seen: dict[int, Any]) -> None:
    """Every function that can be reached from one, and the plain values that they read."""
    if isinstance(thing, str | int | float | tuple):
        seen[id(thing)] = thing
    if not isinstance(thing, FunctionType) or id(thing) in seen:
        return
    seen[id(thing)] = thing
    if thing.__module__ != _HOME:  # its whole module counts
        return
    for part in _read(thing):
        _follow(part, seen)


def _read(function: Callable[..., Any]) -> Iterator[Any]:
    """What a function of the registry reads from outside of itself."""
    assert isinstance(function, FunctionType)
    yield from inspect.getclosurevars(function).nonlocals.values()
    names = list(_names(function.__code__))
    for name in names:
        found = function.__globals__.get(name)
        if isinstance(found, ModuleType):
            yield from (getattr(found, other, None) for other in names if other != name)
        else:
            yield found


def _names(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes in a function and in those inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
