"""Functions named in yaml: ``_target_`` and parameters to a bound call, checked by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from sclip_lab.canonical import plain
from sclip_lab.errors import LabError, unknown


def locate(target: str) -> Callable[..., Any]:
    """The function that a dotted path names.

    Raises:
        LabError: no such module or function (did you mean).
    """
    module_name, _, attribute = str(target).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise LabError(f"_target_ {target}: {error}") from error
    function = getattr(module, attribute, None)
    if function is None:
        known = [n for n, f in vars(module).items() if inspect.isfunction(f) and n[0] != "_"]
        raise unknown(f"function in {module_name}", attribute, known)
    return function


def bind(
    function: Callable[..., Any],
    parameters: Mapping[str, Any],
    supplied: Collection[str],
    also_known: Collection[str] = (),
) -> partial[Any]:
    """``function`` with its parameters, defaults written out so that they can enter a key.

    Args:
        function: any callable with a signature.
        parameters: values from the yaml.
        supplied: names of arguments that the caller passes later.
        also_known: further names to suggest for an unknown one.

    Raises:
        LabError: a parameter that the function does not have, or one without a value.
    """
    signature = inspect.signature(function).parameters
    own = {name: p for name, p in signature.items() if name not in supplied}
    for given in parameters:
        if given not in own:
            raise unknown("parameter", given, [*own, *also_known])
    values = {name: p.default for name, p in own.items()} | dict(parameters)
    missing = [
        name for name, value in values.items() if value is inspect.Parameter.empty or value == "???"
    ]
    if missing:
        raise LabError(f"{function.__name__} needs a value for {', '.join(missing)}")
    return partial(function, **plain(values))


def bind_config(config: Mapping[str, Any] | None, supplied: Collection[str]) -> partial[Any] | None:
    """A bound function from a mapping with ``_target_``; None from an empty one."""
    if not config:
        return None
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise LabError(f"{config!r} is not a function; it needs a _target_")
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    return bind(locate(config["_target_"]), parameters, supplied)


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


def bind_steps(config: Mapping[str, Any] | None, supplied: Collection[str]) -> list[partial[Any]]:
    """Bound functions from one mapping with ``_target_``, or from several by names of their own,
    in order."""
    if config and "_target_" not in config:
        return [bind_config(step, supplied) for step in config.values() if step]  # type: ignore[misc]
    return [step for step in [bind_config(config, supplied)] if step is not None]


def target_modules(config: Mapping[str, Any] | None) -> list[str]:
    """Modules of all functions that a configuration names, however deep."""
    found = []
    for key, value in (config or {}).items():
        if key == "_target_":
            found.append(str(value).rpartition(".")[0])
        elif isinstance(value, Mapping):
            found += target_modules(value)
    return found
