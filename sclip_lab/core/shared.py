"""Guard tensors that variants share against user functions that write to them in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, wrapped so that it can neither write to tensors within its arguments,
    nor draw random numbers without a generator, nor end the process.

    Tokens, projections, texts and embeddings are computed once for all variants and readouts. An
    operation in place, such as ``text.mul_(2)`` or ``ctx.tokens[:, 0] = 0``, would silently change
    the numbers of other variants. The function may write to tensors that it makes itself.

    Raises:
        RuntimeError: at the line that writes, draws or exits, before it does.
    """
    name = getattr(function, "__name__", type(function).__name__)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with guard(name, (args, options)):
            return function(*args, **options)

    return call


@contextmanager
def guard(name: str, arguments: Any) -> Iterator[None]:
    """Run the function ``name`` of the user's on ``arguments`` under the rules of `guarded`."""
    try:
        with _NoWrites(name, arguments), _ReadOnlyArrays(arguments):
            yield
    except SystemExit as error:
        raise RuntimeError(f"{name} ends the process ({error!r}); raise an error") from error


class _ReadOnlyArrays(TorchFunctionMode):
    """A context that makes each new array read-only if it shares memory with a tensor within
    ``arguments``, as ``ctx.tokens.numpy()`` does."""

    def __init__(self, arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, np.ndarray) and _storage(args[0]) in _storages(self.arguments, set()):
            result.flags.writeable = False
        return result


class _NoWrites(TorchDispatchMode):
    """A context that raises an error, which names the function ``name``, at a write to a tensor
    within ``arguments`` and at a random number without a generator."""

    def __init__(self, name: str, arguments: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name, self.arguments = name, arguments

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        seeded = torch.Tag.nondeterministic_seeded not in operation.tags or kwargs.get("generator")
        # Attention is tagged too, for a dropout that no network here uses.
        if not seeded and not any("drop" in each.name for each in operation._schema.arguments):
            raise RuntimeError(
                f"{self.name} draws random numbers ({operation.name()}) that differ in every run; "
                "pass generator=torch.Generator().manual_seed(seed), with seed a parameter"
            )
        if operation._schema.is_mutable:
            written = [
                _storage(args[place] if place < len(args) else kwargs.get(argument.name))
                for place, argument in enumerate(operation._schema.arguments)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
            # What is shared is looked up now: a map that was just computed is shared too.
            shared = set(_storages(self.arguments, set())) if any(written) else set()
            if shared & set(written) - {0}:
                raise RuntimeError(
                    f"{self.name} writes in place ({operation.name()}) to a tensor that others "
                    "share; compute a new one, as in x = x * 2, or clone it first"
                )
        return operation(*args, **kwargs)


def _storage(value: Any) -> int:
    """The address of a tensor's numbers; 0 for anything else, also for packed weights."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided
    return value.untyped_storage().data_ptr() if plain else 0


def _storages(value: Any, passed: set[int]) -> Iterator[int]:
    """The addresses of all tensors within an argument: in containers and attributes."""
    if isinstance(value, Tensor):
        yield _storage(value)
    if isinstance(value, (*_PLAIN, Tensor)) or id(value) in passed:
        return
    passed.add(id(value))
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    for part in parts:
        yield from _storages(part, passed)
