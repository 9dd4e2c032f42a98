"""Weights by name from a file that a stranger may have made: only tensors are read."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.torchscript import is_torchscript, read_torchscript

# What a zip may unpack to beyond its own size: tensors are stored as they are, only code is packed.
MAX_UNPACKED = 64 << 20
LARGEST = 64 << 30  # bytes; ViT-bigG has 10 GB in fp32


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a file: ``.safetensors``, that of `torch.save`, or OpenAI's archive.

    A checkpoint may hold it under ``state_dict`` beside other things.

    Raises:
        LabError: there is no such file, it holds anything but tensors and plain values, or its
            sizes do not fit together.
    """
    if not os.path.isfile(path):
        raise LabError(f"checkpoint {path} does not exist")
    if path.stat().st_size > LARGEST:
        raise LabError(f"checkpoint {path} has {path.stat().st_size} bytes, more than {LARGEST}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_sizes(path, archive)
                if is_torchscript(archive):
                    return read_torchscript(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except LabError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        holds = f"it holds a Python object ({named[1]})" if named else "it is no file of weights"
        raise LabError(
            f"checkpoint {path} cannot be read: {holds}. Only tensors are read, for objects can "
            "run code; whoever made it can save model.state_dict() alone, best as safetensors"
        ) from error
    # Readers of damaged files fail in many ways.
    except Exception as error:
        raise LabError(
            f"checkpoint {path} cannot be read as safetensors or torch weights: {error}"
        ) from error
    if isinstance(loaded, Mapping):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise LabError(f"checkpoint {path} holds no state dict (weights by name)")
    odd = [n for n, t in loaded.items() if t.layout != torch.strided or t.device.type != "cpu"]
    if odd:
        raise LabError(f"checkpoint {path}: weight {_short(odd[0])} is no plain tensor of numbers")
    # A view may claim any size over one stored number.
    large = [n for n, t in loaded.items() if t.nbytes > t.untyped_storage().nbytes()]
    if large:
        shape = tuple(loaded[large[0]].shape)
        raise LabError(
            f"checkpoint {path}: weight {_short(large[0])} of shape {shape} has fewer numbers"
        )
    return loaded


def _short(name: str) -> str:
    return ascii(name)[1:-1][:80]


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """No entry twice, none that unpacks to more than the file can hold."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise LabError(f"checkpoint {path} cannot be read: an entry of the zip is there twice")
    declared = sum(entry.file_size for entry in archive.infolist())
    if declared > path.stat().st_size + MAX_UNPACKED:
        raise LabError(
            f"checkpoint {path} cannot be read: its entries unpack to {declared} bytes, the file "
            f"has {path.stat().st_size}; weights are never packed"
        )
