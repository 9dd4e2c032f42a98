"""One set of official outputs with the toy CLIP, images and texts that they belong to.

A set is a folder of ``.npz`` files, or a folder of such folders, with a ``make_clip.py`` that draws
weights, images and texts, and ``meta.json`` files that say what the arrays do not. Nothing here
knows an input by its name.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from tests import make_clip, toy, vectors


class Kept(np.ndarray):
    """A part of an official array: what ``index`` takes of its ``axis``."""

    index: np.ndarray
    axis: int

    @classmethod
    def of(cls, array: np.ndarray, index: np.ndarray, axis: int) -> Kept:
        viewed = array.view(cls)
        viewed.index, viewed.axis = index, axis
        return viewed


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of one file.

    ``<key>__kept<axis>`` says which places of an array's axis are left of it, where it was trimmed.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        for key in arrays:
            of = re.fullmatch(r"(.+)__kept(\d)", key)
            if of:
                index = self._arrays.pop(key)
                self._arrays[of[1]] = Kept.of(arrays[of[1]], index, int(of[2]))

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def rows(self, key: str) -> np.ndarray | slice:
        """Which rows of an array were kept, where it was trimmed."""
        return self[f"{key}_index"] if f"{key}_index" in self else slice(None)

    def matching(self, pattern: str) -> Iterator[tuple[re.Match[str], np.ndarray]]:
        """(match, array) of every key that a regular expression matches as a whole."""
        for key in self:
            match = re.fullmatch(pattern, key)
            if match:
                yield match, self[key]

    def inputs(self, array: str = "feat") -> list[str]:
        """Names before ``__<array>``, in the file's order."""
        return [key.removesuffix(f"__{array}") for key in self if key.endswith(f"__{array}")]


class VectorSet:
    """The files of some folders, and the toy CLIP that they were computed on.

    Args:
        folders: with ``.npz`` files; of a file in several, the first counts.
        clip: the module that draws weights, images and texts.
    """

    def __init__(self, folders: Sequence[Path], clip: ModuleType) -> None:
        self.folders = list(folders)
        self.clip = clip
        self._networks: dict[str, Backbone] = {}

    @cached_property
    def files(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted(folder.glob("*.npz")):
                paths.setdefault(path.stem, path)
        return dict(sorted(paths.items()))

    def load(self, name: str) -> Arrays:
        with np.load(self.files[name], allow_pickle=False) as arrays:
            return Arrays({key: arrays[key] for key in arrays.files})

    def meta(self, name: str) -> dict[str, Any]:
        """What the set's meta.json says of a file; empty where it says nothing."""
        path = self.files[name].parent / "meta.json"
        return _read(path).get(name) or {} if path.is_file() else {}

    @cached_property
    def which(self) -> str:
        """The seeds that this set was drawn from: those whose texts have the set's digest."""
        names = list(self.clip.SEEDS)
        if len(names) == 1:
            return names[0]
        for folder in self._near():
            path = folder / "digests.json"
            listed = path.read_text(encoding="utf-8") if path.is_file() else ""
            for name in names:
                if self.clip.digest({"t": self.clip.make_text(name)}) in listed:
                    return name
        raise LabError(f"make_clip.py has seeds for {', '.join(names)}; no digest says which")

    def _near(self) -> list[Path]:
        source = self.clip.__file__
        return [*self.folders, *([Path(source).parent] if source else [])]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        seed = self.clip.SEEDS[self.which]["weights"]
        return self.clip.to_torch(self.clip.make_state_dict(seed))

    def network(self, **arguments: Any) -> Backbone:
        """The toy CLIP; arguments as for `load_backbone`."""
        key = repr(sorted(arguments.items()))
        if key not in self._networks:
            weights = toy.openai(self.weights)
            self._networks[key] = load_backbone(state_dict=weights, device="cpu", **arguments)
        return self._networks[key]

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """(1, 3, height, width) normalised images by name."""
        return self.clip.to_torch(self.clip.make_inputs(self.which))

    def image(self, case: str) -> Tensor:
        """The image whose name a case is, or begins with: ``<input>_g28`` is about ``<input>``.

        Raises:
            LabError: the case begins with no input's name.
        """
        fitting = [name for name in self.inputs if case == name or case.startswith(f"{name}_")]
        if not fitting:
            raise LabError(f"case {case} begins with none of the inputs {', '.join(self.inputs)}")
        return self.inputs[max(fitting, key=len)]

    def text(self, count: int = 8) -> Tensor:
        """(count, embed_dim) unit text embeddings."""
        return torch.from_numpy(self.clip.make_text(self.which, count))


def folder_set(root: Path) -> VectorSet:
    """The set in a folder: its own files and those of the folders in it.

    ``make_clip.py`` is the folder's own, or that of a folder in it, or that of the sibling which
    its README names, or of the only sibling that has one.

    Raises:
        LabError: no vectors, or no generator.
    """
    root = root.resolve()
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    folders = [folder for folder in (root, *inside) if any(folder.glob("*.npz"))]
    if not folders:
        raise LabError(f"{root}: no .npz files, nor in the folders in it")
    readme = root / "README.md"
    mentioned = re.findall(r"\.\./([\w.-]+)", readme.read_text()) if readme.is_file() else []
    siblings = [root.parent / name for name in mentioned]
    for folder in (root, *inside, *siblings, root.parent, *sorted(root.parent.iterdir())):
        if (folder / "make_clip.py").is_file():
            return VectorSet(folders, _module(folder / "make_clip.py"))
    raise LabError(f"{root}: no make_clip.py, neither here nor beside it")


@cache
def default_set() -> VectorSet:
    """The set of the default tests: the folder that is given, or the public vectors."""
    roots = vectors.given()
    return VectorSet(vectors.folders(), make_clip) if roots is None else folder_set(roots)


@cache
def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_make_clip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
