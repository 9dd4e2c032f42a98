"""Weights by name from a file or folder that a stranger may have made: only tensors are read."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip_lab.core.errors import LabError, printable, unknown
from sclip_lab.network.torchscript import read_torchscript

log = logging.getLogger(__name__)

# Bytes that a zip may unpack to beyond its own size: tensors are not compressed, only code is.
MAX_UNPACKED = 64 << 20
LARGEST = 64 << 30  # bytes; ViT-bigG has 10 GB in fp32
LARGEST_INDEX = 64 << 20
# Marks that torch's own wrappers put into names of weights, also in the middle, and names of the
# counters that they save beside the weights.
WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
COUNTERS = ("n_averaged",)
# First parts of names that say which part of a network follows; no wrapper put them there.
PARTS = {"visual", "text", "vision_model", "text_model", "image_encoder"}
# What only OpenAI's archives hold beside the weights.
OPENAI_ENTRIES = {"input_resolution", "context_length", "vocab_size"}
FEWEST_OF_A_SET = 16  # weights that make a network
# First bytes of files that torch or safetensors did not write -> what the files are. In text files,
# blanks before these bytes and capitals do not matter.
KINDS = {
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "an array of NumPy",
    b"\x1f\x8b": "packed by gzip; unpack it first",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GGUF": "in the format GGUF",
    b"PK": "a damaged zip, perhaps a download that was not finished",
    b"<!doctype html": "an HTML page, perhaps of a download that failed",
    b"<html": "an HTML page, perhaps of a download that failed",
    b"<?xml": "an XML page, perhaps of a download that was refused",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself by git lfs pull",
    b"{": "JSON",
    b"[": "JSON",
}
# The weights of a folder, in the order of preference.
IN_FOLDER = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"),
)
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(\.\w+)$")


def read_checkpoint(path: Path, weights: str | None = None) -> dict[str, Tensor]:
    """Read the state dict of a file or folder.

    Files are safetensors, those of `torch.save`, OpenAI's archives, or the index of a sharded
    checkpoint (``.index.json``). The content tells the others apart. A folder is transformers' or
    open_clip's. Weights that training code put under a name (``state_dict``, ``model`` ...) or
    behind a prefix (``module.`` ...) are unwrapped, which is logged in one line.

    Args:
        path: of the file or folder.
        weights: which weights, where the file has several, such as ``ema``.

    Raises:
        LabError: there is no such file, it is of another kind, it holds several sets of weights and
            none was chosen, it holds anything but tensors and plain values, or its sizes do not fit
            together.
    """
    notes: list[str] = []
    if os.path.isdir(path):  # no name is too long for this
        path = _in_folder(path)
        notes.append(f"file {path.name}")
    if path.name.endswith(".index.json"):
        state_dict = _sharded(path)
    else:
        shard = SHARD.match(path.name)
        if shard and int(shard[2]) > 1:
            raise LabError(
                f"checkpoint {path} is one of {int(shard[2])} shards; give their index "
                f"{shard[1]}{shard[3]}.index.json, or the folder"
            )
        state_dict = _selected(f"checkpoint {path}", _load(path), weights, notes)
    return _bare(f"checkpoint {path}", state_dict, notes)


def in_memory(state_dict: Any, weights: str | None = None) -> dict[str, Tensor]:
    """Unwrap weights in memory, tensors or arrays, as `read_checkpoint` does those of a file.

    Raises:
        LabError: `read_checkpoint` would refuse them in a file.
    """
    if isinstance(state_dict, Mapping):
        state_dict = {
            name: torch.as_tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in state_dict.items()
        }
    notes: list[str] = []
    return _bare("state_dict", _selected("state_dict", state_dict, weights, notes), notes)


def _bare(source: str, state_dict: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Check weights, and remove what training code put around their names."""
    _check_tensors(source, state_dict)
    if any("lora_" in name for name in state_dict):
        raise LabError(
            f"{source} holds LoRA weights beside the model's; merge them first "
            "(peft: model.merge_and_unload()), then save model.state_dict()"
        )
    state_dict = _without_wrappers(state_dict, source, notes)
    if notes:
        log.info("%s: read %s", source, ", ".join(notes))
    return state_dict


def _in_folder(folder: Path) -> Path:
    for name in IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    files = sorted(each for each in folder.iterdir() if each.suffix in kinds)
    if len(files) == 1:
        return files[0]
    names = ", ".join(each.name for each in files[:5])
    raise LabError(
        f"checkpoint {folder} is a folder with several files of weights ({names}); name one"
        if files
        else f"checkpoint {folder} is a folder without weights; known are {', '.join(IN_FOLDER)}"
    )


def folder_of(path: Path) -> Path:
    """Return the folder whose configuration files describe a checkpoint: itself, or the folder
    around a file with one of the names of ``IN_FOLDER``. Other files may lie anywhere; for them the
    path itself comes back, in which no configuration is found."""
    return path.parent if path.name in IN_FOLDER else path


def _sharded(index: Path) -> dict[str, Tensor]:
    """Read all shards that an index names. They must lie beside it."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise ValueError(f"more than {LARGEST_INDEX} bytes")
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in placed.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise LabError(f"checkpoint {index}: no index of shards ({error})") from error
    state_dict: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise LabError(f"checkpoint {index}: shard {name!a} must lie beside the index")
        shard = index.parent / name
        if not shard.is_file():
            raise LabError(f"checkpoint {index}: its shard {name} is missing")
        state_dict |= _selected(f"checkpoint {shard}", _load(shard), None, [])
    missing = sorted(set(placed) - set(state_dict))
    if missing:
        raise LabError(f"checkpoint {index}: its shards lack weight {printable(missing[0])}")
    return state_dict


def _load(path: Path) -> Any:
    if os.path.islink(path) and not os.path.exists(path):
        raise LabError(f"checkpoint {path} is a link to a file that does not exist")
    if not os.path.isfile(path):
        raise LabError(f"checkpoint {path} does not exist")
    if path.stat().st_size > LARGEST:
        raise LabError(f"checkpoint {path} has {path.stat().st_size} bytes, more than {LARGEST}")
    with open(path, "rb") as file:
        start = file.read(512)
    try:
        if start[8:9] == b"{":  # behind 8 bytes of length
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_sizes(path, archive)
                places = {name.partition("/")[2] for name in archive.namelist()}
                if "data.pkl" not in places:
                    names = ", ".join(archive.namelist()[:3])
                    raise LabError(
                        f"checkpoint {path} cannot be read: it is a zip of other files ({names}) "
                        "and not one of torch.save"
                    )
                if "constants.pkl" in places:  # only torch.jit.save writes these
                    return read_torchscript(path)
        elif kind := _other_kind(start):
            raise LabError(f"checkpoint {path} cannot be read: it is {kind}")
        with open(path, "rb") as file:  # given a path, torch.load would go by the name
            return torch.load(file, map_location="cpu", weights_only=True)
    except LabError:
        raise
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        holds = f"it holds a Python object ({match[1]})" if match else "it is no file of weights"
        raise LabError(
            f"checkpoint {path} cannot be read: {holds}. Only tensors are read, for objects can "
            "run code; whoever made it can save model.state_dict() alone, best as safetensors"
        ) from error
    # Readers of damaged files fail in many ways.
    except Exception as error:
        raise LabError(
            f"checkpoint {path} cannot be read as safetensors or torch weights: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error


def _other_kind(start: bytes) -> str | None:
    """Name the kind of a file that is certainly no weights, from its first bytes."""
    if not start:
        return "empty"
    head = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for first, kind in KINDS.items():
        if start.startswith(first) or head.startswith(first):
            return kind
    if not any(start):
        return "filled with zeros, perhaps a download that was not finished"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start.isascii() and all(byte >= 32 or byte in b"\r\n\t" for byte in start):
        return "text"
    return None


def _selected(source: str, loaded: Any, weights: str | None, notes: list[str]) -> dict[str, Tensor]:
    """Return the set of weights that ``weights`` names: a mapping inside ``loaded``, or the weights
    whose names begin so. If ``weights`` is None, there must be one set only."""
    sets = dict(_sets(loaded)) if isinstance(loaded, Mapping) else {}
    if weights is not None and weights not in sets:
        sets |= {
            first: part
            for whole in list(sets.values())
            for first, part in _by_first_part(whole).items()
            if first == weights
        }
    if weights is not None:
        if weights not in sets:
            raise unknown(f"weights of {source}", weights, [name for name in sets if name])
        selection = weights
    elif not sets:
        raise LabError(f"{source} holds no state dict (weights by name)")
    elif len(names := [n for n in sets if len(sets[n]) >= FEWEST_OF_A_SET] or list(sets)) > 1:
        raise LabError(
            f"{source} holds several sets of weights: {', '.join(names)}. Choose one, as "
            f"in backbone.weights={names[-1]}"
        )
    else:
        [selection] = names
    if selection:
        notes.append(f"the weights under {selection!r}")
    return dict(sets[selection])


def _sets(loaded: Mapping[Any, Any], inside: str = "", depth: int = 0) -> Any:
    """Yield (dotted name, weights) of every mapping of names to tensors."""
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    # Epochs, versions and the like may stand beside the weights.
    if tensors and len(tensors) >= min(len(loaded), FEWEST_OF_A_SET):
        # OpenAI's sizes may be plain numbers; they say what the weights are.
        sizes = {name: torch.as_tensor(loaded[name]) for name in OPENAI_ENTRIES & set(loaded)}
        if all(isinstance(name, str) for name in tensors):
            yield inside, tensors | sizes
        return
    if depth > 2:
        return
    for name, value in loaded.items():
        # Optimizers hold tensors by number, and by names of their own.
        if isinstance(name, str) and isinstance(value, Mapping) and "optim" not in name:
            yield from _sets(value, f"{inside}.{name}" if inside else name, depth + 1)


def _by_first_part(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        first, _, rest = name.partition(".")
        if rest:
            parts.setdefault(first, {})[rest] = tensor
    return parts


def _without_wrappers(
    state_dict: dict[str, Tensor], source: str | Path, notes: list[str]
) -> dict[str, Tensor]:
    """Remove from the names of weights what wrappers of a model have put there."""
    bare = {
        WRAPPERS.sub("", name): value for name, value in state_dict.items() if name not in COUNTERS
    }
    if len(bare) < len(state_dict.keys() - set(COUNTERS)):
        raise LabError(
            f"{source} has weights with and without the marks of torch's wrappers in names "
            "(_orig_mod ...); save one of the two alone"
        )
    if len(bare) > 1 and set(bare) - set(state_dict):
        notes.append("without the marks of torch's wrappers in names")
    removed = ""
    while len(bare) > 1:
        firsts = {name.partition(".")[0] for name in bare}
        if len(firsts) > 1 or firsts <= PARTS or firsts & set(bare):
            break
        [first] = firsts
        removed += f"{first}."
        bare = {name.removeprefix(f"{first}."): value for name, value in bare.items()}
    if removed:
        notes.append(f"without the prefix {removed!r} of all names")
    return bare


def _check_tensors(source: str, state_dict: Mapping[str, Tensor]) -> None:
    for name, tensor in state_dict.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_complex() or tensor.is_quantized:
            raise LabError(f"{source}: weight {printable(name)} is no plain tensor of real numbers")
    # A view may claim any size over one stored number.
    large = [n for n, t in state_dict.items() if t.nbytes > t.untyped_storage().nbytes()]
    if large:
        shape = tuple(state_dict[large[0]].shape)
        raise LabError(f"{source}: weight {printable(large[0])} of shape {shape} has fewer numbers")


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Check that no entry is there twice, and that none unpacks to more than the file can hold."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise LabError(f"checkpoint {path} cannot be read: an entry of the zip is there twice")
    declared = sum(entry.file_size for entry in archive.infolist())
    if declared > path.stat().st_size + MAX_UNPACKED:
        raise LabError(
            f"checkpoint {path} cannot be read: its entries unpack to {declared} bytes, the file "
            f"has {path.stat().st_size}; weights are never packed"
        )
