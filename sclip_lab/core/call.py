"""Functions named in yaml: ``_target_`` and parameters to a bound call, checked by name.

A yaml may come from a stranger, so it names functions of a closed list of modules alone: those of
this package that it is for, and modules that the user allowed (`sclip_lab.allow`, ``plugins=[...]``
on the command line, or an installed package's entry point). No other module is even imported.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction
from functools import cache, partial
from importlib import metadata
from typing import Any, TypeVar

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.identity import plain, recalled
from sclip_lab.core.values import check_arguments, shown

Function = TypeVar("Function", bound=Callable[..., Any])
Named = Mapping[str, Any] | None  # a function with parameters, as a yaml writes it

ENTRY_POINTS = "sclip_lab.plugins"
VARIABLE = "SCLIP_LAB_PLUGINS"  # names of allowed modules, separated by commas
# Where the functions of this package are that a yaml may name.
HOMES = ("sclip_lab.attention", "sclip_lab.segmentation")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_allowed: set[str] = set()


def allow(*modules: str) -> None:
    """Let yaml files name what is defined in these modules, or in modules below them.

    >>> allow("my_package.attention")

    Args:
        modules: dotted names. They are imported when the first yaml names one.

    Raises:
        LabError: not the name of a module.
    """
    for module in modules:
        if not isinstance(module, str) or not _DOTTED.fullmatch(f"{module}.x"):
            raise LabError(f"plugins: {module!r} is not the name of a module")
    _allowed.update(modules)


def allowed() -> list[str]:
    """Modules outside of this package whose functions a yaml may name.

    The variable is how the processes of a job learn what the command named.
    """
    named = {name for name in os.environ.get(VARIABLE, "").split(",") if name}
    return sorted(_allowed | named | set(installed()))


def uses(*things: str, when: Mapping[str, Any] | None = None) -> Callable[[Function], Function]:
    """Mark a function by what it reads besides a window's blocks.

    ``guidance``: features of a second network; ``text``: the protocol's texts, both of which a
    cell's key must know; ``labels``: ground truth, which makes a cell an oracle; ``photo``: all
    windows of a photo together. A function without the mark cannot read them.

    Args:
        things: what it reads.
        when: only where its parameters have these values.
    """

    def mark(function: Function) -> Function:
        function.__uses__ = frozenset(things), dict(when or {})  # type: ignore[attr-defined]
        return function

    return mark


def used(functions: Iterable[Callable[..., Any]]) -> frozenset[str]:
    """Everything that functions are marked to read; bound ones as well."""
    things: set[str] = set()
    for function in functions:
        marked, when = getattr(getattr(function, "func", function), "__uses__", ((), {}))
        values = getattr(function, "keywords", {})
        if all(values.get(name) == value for name, value in when.items()):
            things |= set(marked)
    return frozenset(things)


def locate(target: str, homes: Collection[str] = HOMES) -> Callable[..., Any]:
    """The function or class that a dotted path names.

    Args:
        target: from a yaml.
        homes: modules of this package where it may be defined; `allowed` ones come to them.

    Raises:
        LabError: not of an allowed module (which is then not imported), no such module, nothing of
            that name is defined there (did you mean).
    """
    if isinstance(target, str) and "#" in target:
        return recalled(target)
    if not isinstance(target, str) or not _DOTTED.fullmatch(target):
        raise LabError(f"_target_ {shown(target)}: not the dotted path of a function")
    module_name, _, attribute = target.rpartition(".")
    own = module_name.split(".")[0] == __name__.split(".")[0]
    if not _within(module_name, homes if own else allowed()):
        names = ", ".join([*homes, *allowed()])
        raise LabError(
            f"_target_ {target}: '{module_name}' is none of the modules that a yaml may name here "
            f"({names}); a module of your own takes part with plugins=[{module_name}] on the "
            f'command line, or sclip_lab.allow("{module_name}") in Python'
        )
    try:
        module = importlib.import_module(module_name)
    # A module of the user's may fail in any way.
    except Exception as error:
        raise LabError(f"_target_ {target}: {error or type(error).__name__}") from error
    function = getattr(module, attribute, None)
    if attribute.startswith("_") or not _defined(function, [*homes, *allowed()]):
        known = [n for n, f in vars(module).items() if n[0] != "_" and inspect.isfunction(f)]
        raise unknown(f"function in {module_name}", attribute, known)
    return function  # type: ignore[return-value]


def _defined(function: Any, modules: Collection[str]) -> bool:
    """Whether it is a function or class of one of the modules, not one that they import."""
    return callable(function) and _within(str(getattr(function, "__module__", "")), modules)


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@cache
def installed() -> tuple[str, ...]:
    """Modules that installed packages name under the entry point group."""
    return tuple(point.module for point in metadata.entry_points(group=ENTRY_POINTS))


def bind(
    function: Callable[..., Any],
    parameters: Mapping[str, Any],
    supplied: Collection[str] = (),
    also_known: Collection[str] = (),
    leading: int = 0,
) -> partial[Any]:
    """``function`` with its parameters, defaults written out so that they can enter a key.

    Args:
        function: any callable with a signature.
        parameters: values from the yaml.
        supplied: names of arguments that the caller passes later by name.
        also_known: further names to suggest for an unknown one.
        leading: how many arguments the caller passes later by place, whatever they are called.

    Raises:
        LabError: a parameter that the function does not have, one without a value, or a value of
            another type than the parameter's annotation says.
    """
    signature = inspect.signature(function).parameters
    by_place = [n for n, p in signature.items() if p.kind in _BY_PLACE and n not in supplied]
    if len(by_place) < leading:
        raise LabError(f"{function.__name__} must take {leading} arguments by place")
    taken = {*supplied, *by_place[:leading]}
    own = {n: p for n, p in signature.items() if n not in taken and p.kind not in _VARIADIC}
    for given in parameters:
        if given not in own:
            raise unknown("parameter", given, [*own, *also_known])
    values = {name: p.default for name, p in own.items()} | dict(parameters)
    missing = [
        name for name, value in values.items() if value is inspect.Parameter.empty or value == "???"
    ]
    if missing:
        raise LabError(
            f"{function.__name__} needs a value for {', '.join(missing)} (arguments that it is "
            "given depend on its kind, see sclip_lab.core.kinds)"
        )
    check_arguments(function, values)
    return partial(
        function, **{name: _one_form(plain(v), own[name].annotation) for name, v in values.items()}
    )


def _one_form(value: Any, annotation: Any) -> Any:
    """Equal values in one form, so that they are one key: 1 where a float is meant as 1.0, 1.0
    where a whole number is meant as 1, and 3/12 as 1/4 where a layer is."""
    if re.search(r"\bLayer\b", str(annotation)):
        return [_share(v) for v in value] if isinstance(value, list) else _share(value)
    kinds = {str(getattr(annotation, "__name__", annotation)), *str(annotation).split(" | ")}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "float" in kinds and "int" not in kinds:
        return float(value)
    if "int" in kinds and "float" not in kinds and float(value).is_integer():
        return int(value)
    return value


def _share(layer: Any) -> Any:
    """A share of a network's depth in lowest terms, see `sclip_lab.network.depth`; an index, or
    what is no short fraction, as it is."""
    if isinstance(layer, int) or not isinstance(layer, float | str):
        return layer
    try:
        share = Fraction(layer)
    except (ValueError, OverflowError, ZeroDivisionError):
        return layer
    return str(share) if 0 < share <= 1 and share.denominator < 1000 else layer


def bind_config(
    config: Named, supplied: Collection[str] = (), leading: int = 0
) -> partial[Any] | None:
    """A bound function from a mapping with ``_target_``; None from an empty one. See `bind`."""
    if not config:
        return None
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise LabError(f"{shown(config)} is not a function; it needs a _target_")
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    return bind(locate(config["_target_"]), parameters, supplied, leading=leading)


def written_out(
    config: Named, supplied: Collection[str] = (), leading: int = 0
) -> dict[str, Any] | None:
    """A mapping with ``_target_`` and the defaults of all parameters that it leaves out; None from
    an empty one. See `bind`."""
    bound = bind_config(config, supplied, leading)
    return (
        None if bound is None or not config else {"_target_": config["_target_"], **bound.keywords}
    )


def overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with other values; two mappings are merged, anything else is replaced, and so is
    a mapping whose ``_target_`` changes: one function's parameters are not another's."""
    result = dict(config)
    for key, value in overrides.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            same = value.get("_target_", old.get("_target_")) == old.get("_target_")
            result[key] = overridden(old, value) if same else dict(value)
        else:
            result[key] = value
    return result


def named_steps(config: Named) -> dict[str, Mapping[str, Any]]:
    """Functions by names of their own, in order, from one mapping with ``_target_`` or from
    several; those that are null are left out."""
    if not isinstance(config, Mapping) or "_target_" in config:
        config = {"": config}
    return {name: step for name, step in config.items() if step}


def bind_steps(
    config: Named, supplied: Collection[str] = (), leading: int = 0
) -> list[partial[Any]]:
    """The functions of `named_steps`, bound."""
    steps = [bind_config(step, supplied, leading) for step in named_steps(config).values()]
    return [step for step in steps if step is not None]


def target_modules(config: Mapping[str, Any] | None) -> list[str]:
    """Modules of all functions that a configuration names, however deep."""
    found = []
    for key, value in (config or {}).items():
        if key == "_target_":
            found.append(str(value).rpartition(".")[0])
        elif isinstance(value, Mapping):
            found += target_modules(value)
    return found
