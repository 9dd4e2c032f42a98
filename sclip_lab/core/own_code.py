"""Functions of a script or a notebook under a name that changes with their code.

``lab.variant(my_weights)`` has no yaml and no module that the fingerprint could read. Its function
is known as ``__main__.my_weights#<digest>``; the digest is over its code, its defaults, what it
closes over and the functions and values of its own package that it uses. A cell that is run again
with other code is another variant.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import logging
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError

_known: dict[str, Callable[..., Any]] = {}


def described(given: Any) -> Any:
    """A function as a yaml would name it: ``_target_``, and the keywords of a partial. Within a
    mapping likewise; any other value stays as it is.

    Raises:
        LabError: a partial with positional arguments, or code that no digest can be made of.
    """
    if isinstance(given, Mapping):
        return {key: described(value) for key, value in given.items()}
    if not callable(given):
        return given
    function, keywords = given, dict[str, Any]()
    while isinstance(function, partial):
        if function.args:
            raise LabError(f"{function}: give the parameters of a partial by name")
        keywords = {**function.keywords, **keywords}
        function = function.func
    return {"_target_": remembered(function), **keywords}


def remembered(function: Callable[..., Any]) -> str:
    """The function's name with the digest of its code; `recalled` finds it by that."""
    if not isinstance(function, FunctionType):
        raise LabError(f"{function!r} is no plain function; wrap it in one")
    name = f"{function.__module__}.{function.__qualname__}"
    name = name.replace("<locals>.", "").replace("<lambda>", "lambda_")
    name = f"{name}#{code_digest(function)[:16]}"
    _known[name] = function
    return name


def recalled(target: str) -> Callable[..., Any]:
    """The function that `remembered` gave this name to.

    Raises:
        LabError: it belongs to another process.
    """
    if target not in _known:
        raise LabError(f"_target_ {target}: a function of another session; define it again")
    return _known[target]


def code_digest(function: FunctionType) -> str:
    """sha256 of all that decides what a function computes."""
    digest = hashlib.sha256()
    _add_function(digest, function, set())
    return digest.hexdigest()


def _add_function(digest: hashlib._Hash, function: FunctionType, seen: set[int]) -> None:
    if id(function) in seen:
        digest.update(b"again")
        return
    seen.add(id(function))
    digest.update(_code(function))
    used = inspect.getclosurevars(function)
    values = {
        **{f"default {i}": value for i, value in enumerate(function.__defaults__ or ())},
        **{f"default {name}": value for name, value in (function.__kwdefaults__ or {}).items()},
        **{f"closure {name}": value for name, value in used.nonlocals.items()},
        **{f"global {name}": value for name, value in _globals(function).items()},
    }
    for name, value in sorted(values.items()):
        digest.update(f"\n{name} ".encode())
        _add_value(digest, value, f"{function.__qualname__} uses {name}", function, seen)


def _add_value(
    digest: hashlib._Hash, value: Any, where: str, user: FunctionType, seen: set[int]
) -> None:
    if isinstance(value, ModuleType):
        digest.update(f"module {value.__name__}".encode())
    elif isinstance(value, FunctionType) and _shares_package(value, user):
        _add_function(digest, value, seen)
    elif isinstance(value, type) and _shares_package(value, user):
        for name, member in sorted(vars(value).items()):
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(member, FunctionType):
                _add_function(digest, member, seen)
            elif not name.startswith("__"):
                _add_value(digest, member, f"{where}.{name}", user, seen)
    elif isinstance(value, partial):
        for part in (value.func, value.args, value.keywords):
            _add_value(digest, part, where, user, seen)
    elif isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif isinstance(value, bool | int | float | complex | str | bytes | None):
        digest.update(f"{type(value).__name__} {value!r}".encode())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _add_value(digest, key, where, user, seen)
            _add_value(digest, item, where, user, seen)
    elif isinstance(value, list | tuple | range):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for item in value:
            _add_value(digest, item, where, user, seen)
    elif isinstance(value, set | frozenset):
        _add_value(digest, sorted(value, key=repr), where, user, seen)
    elif hasattr(value, "__array__"):
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.hasobject:
            raise LabError(f"{where}, an array of objects, which no key can be made of")
        digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    elif isinstance(value, logging.Logger) or type(value).__module__ in ("typing", "types"):
        digest.update(type(value).__name__.encode())
    elif type(value).__module__.split(".")[0] == "torch":
        digest.update(repr(value).encode())  # a dtype, a device, torch.ops.x
    else:
        raise LabError(
            f"{where}, a {type(value).__name__}, which no key can be made of; "
            "give it as a parameter, or compute it within the function"
        )


def _globals(function: FunctionType) -> dict[str, Any]:
    """Global names that a function and those defined in it use; builtins are left out."""
    names, waiting = set[str](), [function.__code__]
    while waiting:
        code = waiting.pop()
        names.update(code.co_names)
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    known = function.__globals__
    return {n: known[n] for n in names if n in known and not hasattr(builtins, n)}


def _shares_package(value: Any, user: FunctionType) -> bool:
    return str(value.__module__).split(".")[0] == str(user.__module__).split(".")[0]


def _code(function: FunctionType) -> bytes:
    """The source's syntax tree without docstrings, if the source is what runs; else the bytecode,
    which differs between versions of Python."""
    if function.__name__ == "<lambda>":  # of two on a line the source does not tell which
        return _bytecode(function.__code__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        compiled = compile(tree, "<source>", "exec", dont_inherit=True)
    except (OSError, SyntaxError, TypeError):
        return _bytecode(function.__code__)
    if not any(_same(code, function.__code__) for code in _codes(compiled)):
        return _bytecode(function.__code__)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.dump(tree).encode()


def _codes(code: CodeType) -> list[CodeType]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(found for each in inner for found in _codes(each))]


def _same(one: CodeType, other: CodeType) -> bool:
    return one.co_name == other.co_name and _bytecode(one) == _bytecode(other)


def _bytecode(code: CodeType) -> bytes:
    digest = hashlib.sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        is_code = isinstance(constant, CodeType)
        digest.update(_bytecode(constant) if is_code else repr(constant).encode())
    return digest.digest()
