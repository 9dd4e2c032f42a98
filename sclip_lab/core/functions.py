"""Functions that a yaml names under ``_target_``: which are allowed, their kinds, their binding.

A decorator declares what kind a function is. When the function is bound, its kind must fit the
place in the yaml. The library passes the first arguments by position, so the author names them:

==================== ============================= ===============================================
`weights_function`   ``(ctx)``                     attention weights of a variant
`block_edit`         ``(block, state, ctx)``       a variant that replaces the whole block
`prior_function`     ``(ctx)``                     prior: a term on a variant's scores
`prior_of_grid`      ``(grid)``                    prior of the grid alone, computed once a grid
`mix_function`       ``(ctx, weights)``            mix: other weights made from the variant's
`repair_function`    ``(ctx)``                     repair: tokens before attention
`entry_function`     ``(tokens)``                  entry: tokens beside a variant's patches
`hidden_function`    ``(block, hidden, grid)``     hidden: an edit behind an MLP's activation
`readout_function`   ``(encoded, text)``           readout: patch logits
`reads_others`       ``(encoded, others)``         readout by the masks of other photos
`threshold_function` ``(encoded, text)``           threshold of a photo's probabilities
`view_function`      ``(images)``                  change of a view
`refines_logits`     ``(mask)``                    refinement of logits at the photo's size
`refines_labels`     ``(prediction)``              refinement of labels at the photo's size
==================== ============================= ===============================================

Some arguments are passed by name to functions that have them: ``second_text`` to a readout,
``image``, ``text`` and ``encoded`` to a refinement, ``repair`` to a block edit. A function that
reads texts or a second network is marked with `uses`. Your own functions need a decorator only if
they are a `block_edit`, `prior_of_grid`, `reads_others` or a refinement.

A yaml may come from a stranger, so it may only name functions of allowed modules: `HOMES` of this
package, and modules that the user allowed (`allow`, ``plugins=[...]`` on the command line, or an
installed package's entry point). Other modules are not even imported.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from sclip_lab.core.errors import CrashError, LabError, unknown
from sclip_lab.core.identity import plain, recalled
from sclip_lab.core.values import check_arguments, leaves, shown

Function = TypeVar("Function", bound=Callable[..., Any])
Named = Mapping[str, Any] | None  # a function and its parameters as in a yaml; None: no function

ENTRY_POINTS = "sclip_lab.plugins"
VARIABLE = "SCLIP_LAB_PLUGINS"  # names of allowed modules, separated by commas
PACKAGE = __name__.partition(".")[0]
# Packages whose functions a yaml may name.
HOMES = (f"{PACKAGE}.attention", f"{PACKAGE}.segmentation")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OF_YAML = bool | int | float | str | None
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_allowed: set[str] = set()


@dataclass(frozen=True)
class Kind:
    """A kind of function, and the decorator that declares a function to be of that kind.

    Attributes:
        name: the kind's name in messages.
        by_place: the arguments that the library passes by position.
        by_name: the arguments that the library passes by name to functions that have them.
        declared: whether functions of this kind need the decorator.
        summary: the function that summarises one photo, for a readout that is declared with
            `reads_others`; None for all others.
    """

    name: str
    by_place: tuple[str, ...]
    by_name: tuple[str, ...] = ()
    declared: bool = False
    summary: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def __call__(self, function: Function) -> Function:
        function.__kind__ = self  # type: ignore[attr-defined]
        return function

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.by_place)})"


OF_PHOTO = ("image", "text", "encoded", "backbone")
weights_function = Kind("weights function", ("ctx",))
block_edit = Kind("block edit", ("block", "state", "ctx"), ("repair",), declared=True)
prior_function = Kind("prior", ("ctx",))
prior_of_grid = Kind("prior of the grid", ("grid",), declared=True)
mix_function = Kind("mix", ("ctx", "weights"))
repair_function = Kind("repair", ("ctx",))
entry_function = Kind("entry", ("tokens",))
hidden_function = Kind("hidden edit", ("block", "hidden", "grid"))
readout_function = Kind("readout", ("encoded", "text"), ("second_text",))
readout_of_others = Kind("readout of other photos", ("encoded", "others"), declared=True)
threshold_function = Kind("threshold", ("encoded", "text"))
view_function = Kind("change of a view", ("images",))
refines_logits = Kind("refinement of logits", ("mask",), OF_PHOTO, declared=True)
refines_labels = Kind("refinement of labels", ("prediction",), OF_PHOTO, declared=True)


def reads_others(summary: Callable[..., Any]) -> Callable[[Function], Function]:
    """Declare a readout ``(encoded, others, **parameters)`` -> logits of classes.

    ``others`` are the summaries of all other photos of the data set, in its order.

    Args:
        summary: ``(encoded, labels, classes)`` -> the summary of one photo. Its arguments are the
            photo's windows, the class of each patch as (windows, grid_h, grid_w) int64 with -1
            where there is none, and the number of classes.
    """
    return replace(readout_of_others, summary=summary)


def uses(*things: str, when: Mapping[str, Any] | None = None) -> Callable[[Function], Function]:
    """Mark a function that reads more than the blocks of a window. Unmarked ones cannot.

    Args:
        things: ``guidance``, features of a second network; ``text``, the protocol's texts;
            ``labels``, ground truth, which makes a cell an oracle; ``photo``, all windows of a
            photo together; ``history``, what entered the blocks, for a readout of a photo or a
            refinement. Guidance and texts become part of the cell's key.
        when: the mark counts only if the function's parameters have these values.
    """

    def mark(function: Function) -> Function:
        function.__uses__ = frozenset(things), dict(when or {})  # type: ignore[attr-defined]
        return function

    return mark


def kind_of(function: Callable[..., Any]) -> Kind | None:
    """The declared kind of a function or a partial of it; None without a decorator."""
    return getattr(getattr(function, "func", function), "__kind__", None)


def used(functions: Iterable[Callable[..., Any]]) -> frozenset[str]:
    """What functions read according to `uses` and the parameters that they are bound to."""
    things: set[str] = set()
    for function in functions:
        marks, when = getattr(getattr(function, "func", function), "__uses__", ((), {}))
        values = getattr(function, "keywords", {})
        if all(values.get(name) == value for name, value in when.items()):
            things |= set(marks)
    return frozenset(things)


def allow(*modules: str) -> None:
    """Let yaml files name the functions of these modules and of modules below them.

    >>> allow("my_package.attention")

    Args:
        modules: dotted names. A module is imported when a yaml first names a function of it.
    """
    for module in modules:
        if not isinstance(module, str) or not _DOTTED.fullmatch(f"{module}.x"):
            raise LabError(f"plugins: {module!r} is not the name of a module")
    _allowed.update(modules)


def allowed() -> list[str]:
    """Modules outside of this package whose functions a yaml may name.

    The processes of a job find the modules of the command line in the environment variable.
    """
    in_environment = filter(None, os.environ.get(VARIABLE, "").split(","))
    return sorted(_allowed.union(in_environment, installed()))


@cache
def installed() -> tuple[str, ...]:
    """The modules that installed packages name under the entry point `ENTRY_POINTS`."""
    return tuple(point.module for point in metadata.entry_points(group=ENTRY_POINTS))


def locate(target: str, homes: Collection[str] = HOMES) -> Callable[..., Any]:
    """The function or class that a dotted path names.

    Args:
        target: from a yaml.
        homes: packages within this one where it may be defined, besides `allowed` modules.

    Raises:
        LabError: a module that is not allowed (it is not imported) or does not exist, or no
            function of that name in it (did you mean).
        CrashError: the module raises an error when it is imported.
    """
    if isinstance(target, str) and "#" in target:
        return recalled(target)
    if not isinstance(target, str) or not _DOTTED.fullmatch(target):
        raise LabError(f"_target_ {shown(target)}: not the dotted path of a function")
    module_name, _, attribute = target.rpartition(".")
    if _within(module_name, [PACKAGE]):
        if not _within(module_name, homes):
            raise LabError(
                f"_target_ {target}: '{module_name}' is not an allowed module; a yaml may name "
                f"functions of {' and '.join(homes)} here"
            )
    elif not _within(module_name, allowed()):
        raise LabError(
            f"_target_ {target}: '{module_name}' is not an allowed module; allow it with "
            f'plugins=[{module_name}] on the command line, or sclip_lab.allow("{module_name}") in '
            "Python"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise any error
        if isinstance(error, ModuleNotFoundError) and _within(module_name, [str(error.name)]):
            raise LabError(f"_target_ {target}: {absent(str(error.name))}") from error
        raise CrashError(f"_target_ {target}: {error or type(error).__name__}") from error
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    home = str(getattr(function, "__module__", ""))  # where it is defined, not where imported
    if attribute[0] == "_" or not callable(function) or not _within(home, [*homes, *allowed()]):
        names = [n for n, f in vars(module).items() if n[0] != "_" and inspect.isfunction(f)]
        raise unknown(f"function in {module_name}", attribute, names)
    return function


def absent(module: str) -> str:
    """Where Python looked for a module that it cannot find, and what to do."""
    top = module.partition(".")[0]
    if top != module and (spec := importlib.util.find_spec(top)) is not None:
        place = spec.origin or ", ".join(spec.submodule_search_locations or ())
        return f"no module '{module}'; '{top}' is {place}"
    return (
        f"no module '{top}' in this folder ({Path.cwd()}) or on Python's path; start in the folder "
        f"that holds {top}, install its package, or name that folder in PYTHONPATH"
    )


def _within(module: str, packages: Collection[str]) -> bool:
    return f"{module}.".startswith(tuple(f"{package}." for package in packages))


def bind(
    function: Callable[..., Any],
    parameters: Mapping[str, Any],
    kinds: Collection[Kind] = (),
    *,
    supplied: Collection[str] = (),
    also_known: Collection[str] = (),
) -> partial[Any]:
    """Bind a function to its parameters. The result's keywords include all defaults, for the key.

    Args:
        function: any callable with a signature.
        parameters: values from the yaml.
        kinds: the kinds that are allowed here; a function without a decorator counts as the first.
            The caller passes the arguments of the kind later. Empty: any function.
        supplied: further arguments that the caller passes later by name.
        also_known: names that an error may suggest besides the function's parameters.

    Raises:
        LabError: a function of another kind, an unknown parameter, one without a value, or a value
            that does not fit the parameter's annotation.
    """
    kind = _kind_among(kinds, function) if kinds else None
    signature = inspect.signature(function).parameters
    if kind is not None:
        supplied = {*supplied, *kind.by_name}
        by_place = [n for n, p in signature.items() if p.kind in _BY_PLACE and n not in supplied]
        if len(by_place) < len(kind.by_place):
            raise LabError(f"{function.__name__} must take the arguments of a {kind}")
        supplied.update(by_place[: len(kind.by_place)])
    open_parameters = {
        n: p for n, p in signature.items() if n not in supplied and p.kind not in _VARIADIC
    }
    values = {name: p.default for name, p in open_parameters.items()}
    for name, value in parameters.items():
        if name not in open_parameters:
            raise unknown("parameter", name, [*open_parameters, *also_known])
        values[name] = value
    missing = [n for n, v in values.items() if v is inspect.Parameter.empty or v == "???"]
    if missing:
        raise LabError(
            f"{function.__name__} needs a value for {', '.join(missing)}"
            + (f" (the library passes only the arguments of a {kind})" if kind else "")
        )
    check_arguments(function, values)
    for name, argument in values.items():
        value = plain(argument)
        if kind is not None and not all(isinstance(leaf, _OF_YAML) for _, leaf in leaves(value)):
            raise LabError(
                f"{name}: {shown(argument)} cannot stand in a yaml; use numbers, text or lists"
            )
        values[name] = _one_form(value, str(open_parameters[name].annotation))
    if kind is not None and not _within(str(function.__module__), [PACKAGE]):
        from sclip_lab.core.shared import guarded  # torch takes seconds, a listing needs none

        function = guarded(function)
    return partial(function, **values)


def _kind_among(kinds: Collection[Kind], function: Callable[..., Any]) -> Kind:
    """The function's kind; an error if it is not among ``kinds``."""
    kind = kind_of(function)
    if kind is not None and kind in kinds:
        return kind
    places = " or ".join(map(str, kinds))
    name = getattr(function, "__name__", repr(function))
    if kind is not None:
        raise LabError(f"{name} is a {kind}; this place takes a {places}")
    first = next(iter(kinds))
    if _within(str(function.__module__), [PACKAGE]):
        raise LabError(f"{name} is no function for a yaml; this place takes a {places}")
    if first.declared:
        raise LabError(f"{name} must be declared by its decorator to be a {places}")
    return first


def _one_form(value: Any, annotation: str) -> Any:
    """One form for equal values, so that their keys are equal: 1 becomes 1.0 for a float, 1.0
    becomes 1 for an integer, and 3/12 becomes 1/4 for a layer."""
    if re.search(r"\bLayer\b", annotation):
        return [_share(v) for v in value] if isinstance(value, list) else _share(value)
    types = re.split(r" \| |<class '|'>", annotation)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "float" in types and "int" not in types:
        return float(value)
    if "int" in types and "float" not in types and float(value).is_integer():
        return int(value)
    return value


def _share(layer: Any) -> Any:
    """A share of a network's depth (`sclip_lab.network.depth`) in lowest terms; other values,
    such as an index, unchanged."""
    if isinstance(layer, int) or not isinstance(layer, float | str):
        return layer
    try:
        share = Fraction(layer)
    except (ValueError, OverflowError, ZeroDivisionError):
        return layer
    return str(share) if 0 < share <= 1 and share.denominator < 1000 else layer


def bind_config(config: Named, *kinds: Kind) -> partial[Any] | None:
    """`bind` the function that a mapping with ``_target_`` names; None for an empty mapping."""
    if not config:
        return None
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise LabError(f"{shown(config)} is not a function; it needs a _target_")
    parameters = dict(config)
    return bind(locate(parameters.pop("_target_")), parameters, kinds)


def written_out(config: Named, *kinds: Kind) -> dict[str, Any] | None:
    """A mapping with ``_target_``, with the defaults of all parameters that it leaves out."""
    bound = bind_config(config, *kinds)
    return {"_target_": config["_target_"], **bound.keywords} if bound and config else None


def named_steps(config: Named) -> dict[str, Mapping[str, Any]]:
    """The functions of one mapping with ``_target_``, or of several mappings by name, in order.
    Steps that are null are left out."""
    if not isinstance(config, Mapping) or "_target_" in config:
        config = {"": config}
    return {name: step for name, step in config.items() if step}


def overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with other values. Mappings are merged, other values are replaced.

    A mapping with another ``_target_`` is replaced too: another function has other parameters.
    """
    result = dict(config)
    for key, value in overrides.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            same = value.get("_target_", old.get("_target_")) == old.get("_target_")
            result[key] = overridden(old, value) if same else dict(value)
        else:
            result[key] = value
    return result


def target_modules(config: Mapping[str, Any] | None) -> list[str]:
    """The modules of all functions that a configuration names, at any depth."""
    values = leaves(config or {})
    return [str(v).rpartition(".")[0] for k, v in values if k.rpartition(".")[2] == "_target_"]
