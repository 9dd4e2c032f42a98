"""Digests of values, modules and functions: what a cell's key is made of.

Code is compared as a syntax tree, without comments, docstrings, layout, texts of messages and
branches for the type checker. So a changed formula makes a new cell, and a reworded error does not.
The digest is the same under all Python versions that parse the code alike.

The digest of a module includes the modules of this package that it imports and, for a user's
module, the user's own modules that it imports. The digest of a function includes its defaults, the
variables that it closes over, the functions and values of its module that it uses, and the other
modules that it uses.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import inspect
import json
import linecache
import logging
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from sclip_lab.core.errors import LabError

# The code between a photo and its confusion counts that no yaml names.
CORE = (
    "sclip_lab.evaluation.loop",
    "sclip_lab.network.backbone",
    "sclip_lab.network.loading",
    "sclip_lab.results.table.metrics",
    "sclip_lab.segmentation.decoder",
    "sclip_lab.segmentation.photos",
    "sclip_lab.segmentation.prompts",
)
# Modules that find, name, keep or show numbers without computing any. They are in no digest.
PACKAGE = __name__.partition(".")[0]
OUTSIDE = (
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in ("core", "testing", "results")),
    f"{PACKAGE}.data.digests",
    f"{PACKAGE}.evaluation.spec",
)
COUNTED = (f"{PACKAGE}.results.table.metrics",)  # in digests all the same: it computes counts
# Calls whose texts are messages: of loggers, warnings, and errors that are returned.
MESSAGES = ("LabError", "unknown", "print", "warn", "debug", "info", "warning", "error")
_INSTALLED = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), Enum, Path, re.Pattern)
_known_modules: dict[str, tuple[Any, tuple[str, tuple[str, ...]]]] = {}
_known_functions: dict[str, Callable[..., Any]] = {}


def plain(value: Any) -> Any:
    """Mappings as dict and sequences as list, so that equal configurations have equal JSON."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(v) for v in value]
    return value


def digest(value: Any) -> str:
    """sha256 of a value's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def of_code(modules: Iterable[str] = ()) -> str:
    """sha256 of the code that computes a cell: `CORE`, and the modules that its yaml names."""
    return of_modules([*CORE, *modules])


def of_modules(modules: Iterable[str]) -> str:
    """sha256 of the code of modules (dotted names) and of the modules that they import."""
    return digest([f"{module} {_module(module)[0]}" for module in reached(modules)])


def reached(modules: Iterable[str]) -> list[str]:
    """The names of ``modules``, and of the modules that they import, directly or not, whose code
    can change a number."""
    names, waiting = set[str](), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in names:
            names.add(module)
            waiting += _module(module)[1]
    return sorted(names)


def of_function(function: Callable[..., Any]) -> str:
    """sha256 of the code and values that decide what a function computes.

    Raises:
        LabError: the function uses a value that has no digest.
    """
    parts = _Parts()
    parts.add_value(function, "the function", None)
    return digest([parts.texts, of_modules(parts.modules)])


def described(value: Any) -> Any:
    """A function as a yaml would name it: a mapping of ``_target_`` and a partial's keywords.

    Functions within a mapping are described too. Any other value is returned as it is.

    Raises:
        LabError: a partial with positional arguments, or a function that has no digest.
    """
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if not callable(value):
        return value
    function, keywords = value, dict[str, Any]()
    while isinstance(function, partial):
        if function.args:
            raise LabError(f"{function}: give the parameters of a partial by name")
        keywords = {**function.keywords, **keywords}
        function = function.func
    return {"_target_": remembered(function), **keywords}


def remembered(function: Callable[..., Any]) -> str:
    """A name for a function of a script or notebook, such as ``__main__.my_weights#<digest>``.

    `recalled` finds the function by that name. A function with other code gets another name.
    """
    if not isinstance(function, FunctionType):
        raise LabError(f"{function!r} is no plain function; wrap it in one")
    name = f"{function.__module__}.{function.__qualname__}"
    name = name.replace("<locals>.", "").replace("<lambda>", "lambda_")
    name = f"{name}#{of_function(function)[:16]}"
    _known_functions[name] = function
    return name


def recalled(target: str) -> Callable[..., Any]:
    """The function to which `remembered` gave this name."""
    if target not in _known_functions:
        raise LabError(f"_target_ {target}: a function of another session; define it again")
    return _known_functions[target]


class _Parts:
    """The parts of a function's digest."""

    def __init__(self) -> None:
        self.texts: list[str] = []  # code and values of the function's own module, in order
        self.modules: set[str] = set()  # other modules it uses whose code can change a number
        self._seen: set[int] = set()

    def add_value(self, value: Any, where: str, user: FunctionType | None) -> None:
        """Add a value that the function ``user`` uses; of a function or class, add its code.
        ``where`` names the value in an error."""
        if isinstance(value, FunctionType):
            # The wrapper of a library (torch.no_grad, a shape checker) is not the user's code.
            while hasattr(value, "__wrapped__") and _installed(value.__code__.co_filename):
                value = value.__wrapped__
        at_home = user is None or getattr(value, "__module__", None) == user.__module__
        if isinstance(value, FunctionType) and at_home:
            self._add_function(value)
        elif isinstance(value, type) and at_home:
            self._add_class(value, where, user)
        elif isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self.add_value(part, where, user)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
            self.texts.append(f"{value.__module__}.{value.__qualname__}")
            self._add_module(str(value.__module__), user)
        elif isinstance(value, ModuleType):
            self.texts.append(f"module {value.__name__}")
            self._add_module(value.__name__, user)
        elif isinstance(value, _PLAIN):
            self.texts.append(f"{type(value).__name__} {value!r}")
        elif isinstance(value, Mapping):
            self.texts.append(f"mapping {len(value)}")
            for pair in value.items():
                self.add_value(pair, where, user)
        elif isinstance(value, list | tuple | range):
            self.texts.append(f"{type(value).__name__} {len(value)}")
            for item in value:
                self.add_value(item, where, user)
        elif isinstance(value, set | frozenset):
            self.add_value(sorted(value, key=repr), where, user)
        elif hasattr(value, "__array__"):
            self._add_array(value, where)
        elif is_dataclass(value):
            self.add_value(type(value), where, user)
            self.add_value({f.name: getattr(value, f.name) for f in fields(value)}, where, user)
        elif isinstance(value, logging.Logger) or type(value).__module__ in ("typing", "types"):
            self.texts.append(type(value).__name__)
        elif type(value).__module__.split(".")[0] == "torch":
            self.texts.append(repr(value))  # a dtype, a device, torch.ops.x
        else:
            raise LabError(
                f"{where}, a {type(value).__name__}, which no key can be made of; "
                "give it as a parameter, or compute it within the function"
            )

    def _add_function(self, function: FunctionType) -> None:
        if id(function) in self._seen:
            self.texts.append("again")
            return
        self._seen.add(id(function))
        self.texts.append(_function_code(function.__code__))
        closure = inspect.getclosurevars(function).nonlocals
        values = {
            **{f"default {i}": value for i, value in enumerate(function.__defaults__ or ())},
            **{f"default {name}": value for name, value in (function.__kwdefaults__ or {}).items()},
            **{f"closure {name}": value for name, value in closure.items()},
            **{f"global {name}": value for name, value in _globals(function).items()},
        }
        for name, value in sorted(values.items()):
            self.texts.append(name)
            self.add_value(value, f"{function.__qualname__} uses {name}", function)

    def _add_class(self, value: type, where: str, user: FunctionType | None) -> None:
        for name, member in sorted(vars(value).items()):
            if isinstance(member, staticmethod | classmethod):
                member = member.__func__
            elif isinstance(member, property | cached_property):
                member = getattr(member, "fget", None) or getattr(member, "func", None)
            if isinstance(member, FunctionType) or not (
                name.startswith(("__", "_abc_")) or inspect.isdatadescriptor(member)
            ):
                self.add_value(member, f"{where}.{name}", user)

    def _add_module(self, module: str, user: FunctionType | None) -> None:
        if _counts(module, user.__module__ if user else module):
            self.modules.add(module)

    def _add_array(self, value: Any, where: str) -> None:
        import numpy as np

        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.hasobject:
            raise LabError(f"{where}, an array of objects, which no key can be made of")
        content = hashlib.sha256(array.tobytes()).hexdigest()
        self.texts.append(f"{array.shape} {array.dtype} {content}")


def _globals(function: FunctionType) -> dict[str, Any]:
    """Global names that a function and those defined in it use; builtins are left out."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    module = function.__globals__
    return {n: module[n] for n in names if n in module and not hasattr(builtins, n)}


def _function_code(code: CodeType) -> str:
    """Digest of a function's syntax tree if the source is what runs, else of its bytecode."""
    linecache.checkcache(code.co_filename)
    try:
        nodes, compiled = _parsed("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return _bytecode(code)
    written = [node for node in nodes if _first_line(node) == code.co_firstlineno]
    if len(written) != 1 or _bytecode(code) not in compiled:
        return _bytecode(code)
    return _of_tree(written[0])


@cache
def _parsed(text: str) -> tuple[list[ast.AST], set[str]]:
    """The functions of a source, and the bytecode of each."""
    tree = ast.parse(text)
    nodes = [node for node in ast.walk(tree) if _first_line(node) is not None]
    compiled = compile(tree, "<source>", "exec", dont_inherit=True)
    return nodes, {_bytecode(code) for code in _codes(compiled)}


def _first_line(node: ast.AST) -> int | None:
    """The line in which a function begins, as Python counts; None for other nodes."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return None
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _codes(code: CodeType) -> list[CodeType]:
    """A code object and those within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(each for part in inner for each in _codes(part))]


def _bytecode(code: CodeType) -> str:
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars
    state = hashlib.sha256(code.co_code + repr(names).encode())
    for constant in code.co_consts:
        is_code = isinstance(constant, CodeType)
        state.update((_bytecode(constant) if is_code else repr(constant)).encode())
    return state.hexdigest()


def _module(name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code, and the modules it imports whose code can change a number."""
    # Read once as long as the module is not reloaded: what was edited since does not run yet.
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if name not in _known_modules or _known_modules[name][0] is not loaded:
        _known_modules[name] = loaded, _read_module(name)
    return _known_modules[name][1]


def _read_module(name: str) -> tuple[str, tuple[str, ...]]:
    path = _source(name)
    if path is None:
        return "no source", ()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {other for node in ast.walk(tree) for other in _imports(node, name)}
    return _of_tree(tree), tuple(sorted(other for other in imported if _counts(other, name)))


def _counts(module: str, user: str) -> bool:
    """Whether the code of a module that ``user`` imports can change a number. It can if the module
    is of this package and computes numbers, or is the user's own and no installed library."""
    package = module.split(".")[0]
    if package != PACKAGE:
        return _is_users(package, user.split(".")[0])
    within = any(module == name or module.startswith(f"{name}.") for name in OUTSIDE[1:])
    return module in COUNTED or not (within or module == PACKAGE)


@cache
def _is_users(package: str, home: str) -> bool:
    if PACKAGE in (package, home) or package in sys.stdlib_module_names:
        return False
    spec = _spec(package)
    origin = spec.origin if spec else None  # None for a folder without __init__.py too
    places = [origin] if origin else (spec and spec.submodule_search_locations) or []
    return package == home or any(not _installed(place) for place in places)


def _installed(file: str) -> bool:
    """Whether a file is Python's or an installed library's, wherever pip or a system put it."""
    path = Path(file)
    return any(
        folder in _INSTALLED
        or folder.name in ("site-packages", "dist-packages")
        or path.relative_to(folder).parts[0] in _libraries(folder)
        for folder in path.parents
    )


@cache
def _libraries(folder: Path) -> set[str]:
    """Names in a folder that belong to libraries. "pip install --target" takes a folder of any
    name, also one with modules of the user's, and notes in a .dist-info what each library has."""
    noted = [place / "RECORD" for place in folder.glob("*.dist-info")]
    lines = [line for file in noted if file.is_file() for line in file.open(encoding="utf-8")]
    return {line.partition(",")[0].partition("/")[0].strip('"') for line in lines}


def _imports(node: ast.AST, module: str) -> list[str]:
    """Modules that a statement of ``module`` imports, or imports from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parent = ".".join(module.split(".")[: -node.level]) if node.level else ""
    source = ".".join(part for part in (parent, node.module) if part)
    package = source.split(".")[0]
    if package != PACKAGE and not _is_users(package, module.split(".")[0]):
        return []
    names = [f"{source}.{alias.name}" for alias in node.names]  # modules, or what a module defines
    return [name if _source(name) else source for name in names]


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _source(module: str) -> Path | None:
    """A module's source file, found without importing it; None if there is none."""
    name, *below = module.split(".")
    spec = _spec(name)
    if spec is not None and below:
        # By hand: Python asks for the parents of a folder without __init__.py to be imported.
        inner = [Path(place, *below) for place in spec.submodule_search_locations or ()]
        files = [file for at in inner for file in (at / "__init__.py", Path(f"{at}.py"))]
        return next((file for file in files if file.is_file()), None)
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _of_tree(tree: ast.AST) -> str:
    texts: list[str] = []
    _dump(tree, texts)
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _dump(node: Any, texts: list[str], message: bool = False) -> None:
    """Add a syntax tree to ``texts``, without docstrings, messages and cosmetic fields."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        message = message or isinstance(node, ast.Raise) or _is_message(node)
        texts.append(f"{type(node).__name__}(")
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if isinstance(value, list):  # without statements that are texts alone: docstrings
                value = [
                    child
                    for child in value
                    if not isinstance(child, ast.Expr)
                    or not isinstance(getattr(child.value, "value", None), str)
                ]
            if isinstance(node, ast.JoinedStr):  # Python 3.12 puts an empty text behind {x:{y}}
                value = [part for part in value or () if getattr(part, "value", None) != ""]
            # Without empty fields, Python versions agree until a new field is used.
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
                texts.append(f"{name}=")
                _dump(value, texts, message)
        texts.append(")")
    elif isinstance(node, list):
        for child in node:
            _dump(child, texts, message)
            texts.append(",")
    elif not (message and isinstance(node, str)):
        texts.append(f"{type(node).__name__}:{node!r}")


def _is_message(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in MESSAGES
