"""A digest of the code that numbers come out of, so that a changed formula is a new cell.

What counts is the syntax tree: no comment, docstring, layout, text of a message or branch for the
type checker. The digest is the same under every Python version that reads the code alike.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

# Everything between a photo and its confusion counts that is not named in a yaml.
CORE = (
    "sclip_lab.evaluation.loop",
    "sclip_lab.network.backbone",
    "sclip_lab.network.loading",
    "sclip_lab.results.table.metrics",
    "sclip_lab.segmentation.decoder",
    "sclip_lab.segmentation.photos",
    "sclip_lab.segmentation.prompts",
)
# What those import, and what finds, names, keeps or shows numbers without making any.
PACKAGE = __name__.partition(".")[0]
OUTSIDE = (
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in ("core", "testing", "results")),
    f"{PACKAGE}.data.digests",
    f"{PACKAGE}.evaluation.spec",
)
COUNTED = (f"{PACKAGE}.results.table.metrics",)
# Calls whose text a person reads: loggers' and warnings' methods, and errors that are returned.
MESSAGES = ("LabError", "unknown", "print", "warn", "debug", "info", "warning", "error")
_known: dict[str, tuple[Any, tuple[str, tuple[str, ...]]]] = {}


def digest(modules: Iterable[str] = ()) -> str:
    """sha256 of the code of the core, of the given modules and of what they import from this
    package or their own.

    Args:
        modules: dotted names, of this package or any other.
    """
    return of_modules([*CORE, *modules])


def of_modules(modules: Iterable[str]) -> str:
    """sha256 of the code of modules and of what they import from this package or their own."""
    total = hashlib.sha256()
    for module in reached(modules):
        total.update(f"{module} {_code(module)[0]}\n".encode())
    return total.hexdigest()


def reached(modules: Iterable[str]) -> list[str]:
    """The modules that count among these and all that they import."""
    found, waiting = set[str](), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _code(module)[1]
    return sorted(found)


def of_text(text: str) -> str:
    """Digest of one module's code, given as text."""
    return _of_tree(ast.parse(text))


def _of_tree(tree: ast.AST) -> str:
    return hashlib.sha256("".join(_dump(tree)).encode()).hexdigest()


def of_lines(module: str, lines: Collection[int]) -> str:
    """Digest of the functions of a module that begin in these lines; of nothing, without a file."""
    path = _source(module)
    found = [] if path is None else ast.walk(ast.parse(_text(path)))
    dumped = ["".join(_dump(node)) for node in found if _begins(node) in lines]
    return hashlib.sha256("\n".join(dumped).encode()).hexdigest()


def _begins(node: ast.AST) -> int | None:
    """The line in which a function begins, as Python counts; None for other nodes."""
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        return None
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _code(module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code, and the modules that it imports and that count.

    Read once as long as the module is not reloaded: what was edited since does not run yet.
    """
    loaded = getattr(sys.modules.get(module), "__spec__", None)
    if module not in _known or _known[module][0] is not loaded:
        _known[module] = loaded, _read(module)
    return _known[module][1]


def _read(module: str) -> tuple[str, tuple[str, ...]]:
    path = _source(module)
    if path is None:
        return "no source", ()
    tree = ast.parse(_text(path))
    imported = {name for node in ast.walk(tree) for name in _imports(node, module)}
    return _of_tree(tree), tuple(sorted(filter(_counts, imported)))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _counts(module: str) -> bool:
    within = any(module == name or module.startswith(f"{name}.") for name in OUTSIDE[1:])
    return module in COUNTED or not (within or module == PACKAGE)


def _imports(node: ast.AST, module: str) -> list[str]:
    """Modules of this package and of ``module``'s own that a statement imports, or imports from."""
    if isinstance(node, ast.Import):
        named = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        parent = ".".join(module.split(".")[: -node.level]) if node.level else ""
        source = ".".join(part for part in (parent, node.module) if part)
        below = {alias.name: f"{source}.{alias.name}" for alias in node.names}
        # A module that is named itself does not run through the package that it lies in.
        named = [path if _source(path) else source for path in below.values()]
    else:
        return []
    packages = PACKAGE, module.split(".")[0]
    return [name for name in named if name.split(".")[0] in packages and _source(name)]


def _source(module: str) -> Path | None:
    """A module's file, without importing anything; None for other names."""
    name, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _dump(node: Any, message: bool = False) -> Iterator[str]:
    """A syntax tree as text: fields that are empty or say nothing of what runs are left out, so
    that a field which a later Python version adds changes nothing before it is used."""
    if isinstance(node, ast.AST):
        if _for_the_type_checker(node):
            return
        message = message or isinstance(node, ast.Raise) or _is_message(node)
        yield f"{type(node).__name__}("
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if name == "body" and isinstance(value, list):
                value = [child for child in value if not _is_text(child)]
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
                yield f"{name}="
                yield from _dump(value, message)
        yield ")"
    elif isinstance(node, list):
        for child in node:
            yield from _dump(child, message)
            yield ","
    elif not (message and isinstance(node, str)):
        yield f"{type(node).__name__}:{node!r}"


def _is_text(node: Any) -> bool:
    """A statement that is a text alone, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_message(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in MESSAGES


def _for_the_type_checker(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
