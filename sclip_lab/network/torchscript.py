"""The weights of a TorchScript archive, read as plain tensors: nothing of the archive runs.

OpenAI publishes its CLIPs as such archives. `torch.jit.load` compiles their code and calls the
``__setstate__`` of each module that has one, so an archive can do whatever its author likes. But
the weights lie in the zip as they are: ``data.pkl`` is a pickle of the tree of modules, whose
leaves name a type, a shape and a file of numbers ``data/<n>``. The pickle is read here by an
interpreter of the few opcodes that TorchScript writes. It never imports, calls or sets anything: a
class becomes an inert record. ``code/`` is searched for the names of parameters and buffers.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError

MAX_PICKLE = 4 << 20  # bytes; that of a ViT-L is 0.2 MB
MAX_CODE = 16 << 20  # bytes of text when unpacked
MAX_RANK, MAX_DEPTH, MAX_WEIGHTS = 8, 64, 100_000

DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_CLASS = re.compile(r"class (\w+)\(Module\):")
_NAMES = re.compile(r"  __(?:parameters|buffers)__ = \[(.*)\]")
_MARK = object()


class _Global(NamedTuple):
    name: str


class _Stored(NamedTuple):
    """Where a tensor's numbers are; as many of them as ``numel``."""

    storage: str
    key: str
    numel: int


class _Leaf(NamedTuple):
    stored: _Stored
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class _Record:
    """An object of the archive: the name of its class, and what it holds."""

    kind: str
    state: Any = None


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether a zip is an archive of `torch.jit.save`; those of `torch.save` have no constants."""
    return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Parameters and buffers by name, as ``torch.jit.load(path).state_dict()`` gives them.

    Raises:
        LabError: what the archive holds is not plain tensors, or is larger than can be.
    """
    root = archive.namelist()[0].partition("/")[0]
    try:
        order = f"{root}/byteorder"
        if order in archive.namelist() and _text(archive, order, 16) != "little":
            raise ValueError("its numbers are big-endian")
        tree = _interpret(_bytes(archive, f"{root}/data.pkl", MAX_PICKLE))
        leaves = dict(_leaves(tree, _declared(archive, f"{root}/code/")))
        stored = {leaf.stored for leaf in leaves.values()}
        storages = {each: _storage(archive, f"{root}/data/{each.key}", each) for each in stored}
        return {name: _tensor(leaf, storages[leaf.stored]) for name, leaf in leaves.items()}
    # What a damaged or hostile pickle breaks is a matter of chance; whatever it is, it is refused.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise LabError(
            f"checkpoint {path} is a TorchScript archive, of which only plain tensors are read and "
            f"no code is run: {reason}. If you trust whoever made it, convert it elsewhere: "
            'torch.save(torch.jit.load("archive.pt", "cpu").state_dict(), "weights.pt")'
        ) from error


def _interpret(pickle: bytes) -> Any:
    """The tree that a pickle describes, of containers, numbers, strings, `_Leaf` and `_Record`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = len(stack) - 1 - next(i for i, v in enumerate(reversed(stack)) if v is _MARK)
        taken = stack[place + 1 :]
        del stack[place:]
        return taken

    for opcode, value, _ in pickletools.genops(pickle):
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(value)
            case "GLOBAL":
                stack.append(_Global(str(value).replace(" ", ".")))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[opcode.name])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                last = stack.pop()
                _of(list, stack[-1]).append(last)
            case "APPENDS":
                items = since_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                for key, item in zip(items[::2], items[1::2], strict=True):
                    _of(dict, stack[-1])[_of((str, int, float), key)] = item
            case "BINPUT" | "LONG_BINPUT":
                memo[_of(int, value)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[_of(int, value)])
            case "NEWOBJ":
                _, kind = stack.pop(), stack.pop()
                stack.append(_Record(_of(_Global, kind).name))
            case "BUILD":
                state = stack.pop()
                _of(_Record, stack[-1]).state = state
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_built(_of(_Global, function).name, _of(tuple, arguments)))
            case "BINPERSID":
                _, kind, key, _, numel = stack.pop()
                stack.append(_Stored(_of(_Global, kind).name, _of(str, key), _of(int, numel)))
            case other:
                raise ValueError(f"opcode {other} is none of TorchScript's")
    raise ValueError("its pickle has no end")


def _built(function: str, arguments: tuple[Any, ...]) -> Any:
    """What a call in the pickle stands for. Only tensors are understood; nothing is called."""
    if function == "torch._utils._rebuild_tensor_v2":
        stored, offset, shape, stride = arguments[:4]
        numbers = [_of(int, n) for n in (offset, *shape, *stride)]
        if min(numbers) < 0 or len(shape) != len(stride) or len(shape) > MAX_RANK:
            raise ValueError("a tensor's shape and strides are none")
        return _Leaf(_of(_Stored, stored), offset, tuple(shape), tuple(stride))
    if function == "torch._utils._rebuild_parameter":
        return arguments[0]
    return _Record(function)


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle holds {type(value).__name__.strip('_')} in a wrong place")
    return value


def _leaves(tree: Any, declared: dict[str, set[str]]) -> Iterator[tuple[str, _Leaf]]:
    """Weights of the tree of modules under their dotted names."""
    waiting, count = [("", _of(_Record, tree), 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        if not isinstance(module.state, dict):
            raise ValueError(
                f"module {prefix.rstrip('.') or module.kind} has a __setstate__ of its own"
            )
        for name, value in module.state.items():
            count += 1
            if depth > MAX_DEPTH or count > MAX_WEIGHTS:
                raise ValueError("its tree of modules has no end")
            if isinstance(value, _Record) and value.kind.startswith("__torch__."):
                waiting.append((f"{prefix}{name}.", value, depth + 1))
            # Tensors that are plain attributes, such as a mask, are no weights.
            elif isinstance(value, _Leaf) and name in declared.get(module.kind, {name}):
                yield f"{prefix}{name}", value


def _declared(archive: zipfile.ZipFile, code: str) -> dict[str, set[str]]:
    """{class: names of its parameters and buffers}, from the text of the archive's code."""
    found: dict[str, set[str]] = {}
    left = MAX_CODE
    for name in archive.namelist():
        if not (name.startswith(code) and name.endswith(".py")):
            continue
        text, current = _text(archive, name, left), None
        left -= len(text)
        module = name.removeprefix(code).removesuffix(".py").replace("/", ".")
        for line in text.splitlines():
            if declaration := _CLASS.match(line):
                current = f"{module}.{declaration[1]}"
            elif current and (names := _NAMES.fullmatch(line)):
                found.setdefault(current, set()).update(re.findall(r'"([^"]+)"', names[1]))
    return found


def _storage(archive: zipfile.ZipFile, name: str, stored: _Stored) -> Tensor:
    if stored.storage not in DTYPES:
        raise ValueError(f"numbers of type {stored.storage} are not read")
    dtype, entry = DTYPES[stored.storage], archive.getinfo(name)
    wanted = stored.numel * dtype.itemsize
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != wanted:
        raise ValueError(f"{name} holds {entry.file_size} bytes, not {wanted} uncompressed")
    if not wanted:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype)


def _tensor(leaf: _Leaf, storage: Tensor) -> Tensor:
    last = sum((size - 1) * step for size, step in zip(leaf.shape, leaf.stride, strict=True))
    if math.prod(leaf.shape) > len(storage) or leaf.offset + last >= max(len(storage), 1):
        raise ValueError(
            f"a tensor of shape {leaf.shape} is larger than its {len(storage)} numbers"
        )
    return torch.as_strided(storage, leaf.shape, leaf.stride, leaf.offset)


def _bytes(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"{name} declares {size} bytes; at most {limit} are read")
    with archive.open(name) as stream:
        return stream.read(limit)


def _text(archive: zipfile.ZipFile, name: str, limit: int) -> str:
    return _bytes(archive, name, limit).decode()
