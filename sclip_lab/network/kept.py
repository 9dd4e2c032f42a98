"""A backbone whose key is known from an earlier time, built when its network is asked for.

A sweep that is finished needs of its network only what names cells. So a store keeps that in
``<root>/networks/<stamp>.json``; the stamp is a digest of all that the key is made from: see
`stamp`. Once the network is built after all, its key must be the one that was kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sclip_lab.core import fingerprint, sealed
from sclip_lab.core.canonical import digest
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import LARGEST

FOLDER = "networks"
# Packages that build networks. Of the first two every file counts: their configurations and
# defaults may be edited in place.
BUILDERS = ("open_clip", "timm")
VERSIONS = ("open_clip_torch", "timm", "transformers", "safetensors", "numpy")
FILES = ("checkpoint", "architecture", "pretrained")  # arguments that may be local files
LOADING = "sclip_lab.network.loading"
# What the description of a cell, its key and the way to its photos need.
FIELDS = ("name", "position_embedding", "padding", "mean", "std", "description")


class KeptBackbone(Backbone):
    """See the top of the file.

    Args:
        known: a record of `remember`.
        build: makes the network.
    """

    def __init__(self, known: Mapping[str, Any], build: Callable[[], Backbone]) -> None:
        for name in FIELDS:
            value = known[name]
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.key = known["key"]
        self._known, self._build = known, build

    def __getattr__(self, name: str) -> Any:
        if name not in ("model", "tokenize", "tower", "blocks"):
            raise AttributeError(name)
        built = self._build()
        if built.key != self.key:
            raise LabError(
                f"backbone {self.name}: the key that the store keeps below {FOLDER}/ is not that "
                "of its weights; delete that folder"
            )
        self.__dict__.update(vars(built))
        return getattr(self, name)

    @property
    def device(self) -> torch.device:
        return super().device if "tower" in vars(self) else torch.device(self._known["device"])

    @property
    def depth(self) -> int:
        return int(self._known["depth"])

    @property
    def has_text(self) -> bool:
        return bool(self._known["has_text"])


def known(stamp: str | None, root: Path) -> Mapping[str, Any] | None:
    """What a store knows of the backbone with this stamp; a damaged record is set aside."""
    if stamp is None:
        return None
    path = _file(stamp, root)
    try:
        record, is_sealed = sealed.read_json(path)
    except (FileNotFoundError, LabError) as error:
        if isinstance(error, sealed.Damaged):
            sealed.set_aside(root, error)
        return None
    return record if is_sealed and record.get("stamp") == stamp else None


def remember(backbone: Backbone, config: Mapping[str, Any], before: str | None, root: Path) -> None:
    """Let a store know a backbone. One that cannot be written goes without.

    Args:
        backbone: built; not if its texts are read by a network from a hub, which may change.
        config: its configuration.
        before: its `stamp` before it was built; not if that is another one now.
        root: of the store.
    """
    if before is None or _file(before, root).exists() or stamp(config) != before:
        return
    if type(getattr(backbone.model, "text", None)).__name__ == "HFTextEncoder":
        return
    record = {
        "stamp": before,
        "key": backbone.key,
        **{name: getattr(backbone, name) for name in FIELDS},
        "device": str(backbone.device),
        "depth": backbone.depth,
        "has_text": backbone.has_text,
    }
    with contextlib.suppress(LabError):
        sealed.write_json(_file(before, root), record)


def stamp(config: Mapping[str, Any]) -> str | None:
    """Digest of all that decides what a backbone of this configuration computes.

    These are the configuration; the bytes of files that it names; our code that builds it; torch,
    the packages that build networks, and their files; the processor and whether there is a GPU.

    Returns:
        64 hex digits; None for weights that are fetched from elsewhere, and for files that cannot
        be read.
    """
    files = {}
    for name in FILES:
        value = config.get(name)
        if isinstance(value, str) and os.path.isfile(value):  # no name is too long for this
            if os.path.getsize(value) > LARGEST:  # is refused by whoever reads it
                return None
            try:
                with open(value, "rb") as file:
                    files[name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                return None
    fetched = config.get("pretrained") and not {"checkpoint", "pretrained"} & set(files)
    if fetched or ":" in str(config.get("name")):
        return None
    target = config.get("_target_")
    modules = [LOADING] if target is None else [LOADING, str(target).rpartition(".")[0]]
    return digest(
        {
            "config": config,
            "files": files,
            "code": fingerprint.of_modules([*modules, __name__]),
            "versions": {name: _version(name) for name in VERSIONS},
            "torch": torch.__version__,
            "python": platform.python_version(),
            "builders": [list(_files(name)) for name in BUILDERS],
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
            "cuda": torch.cuda.is_available(),
        }
    )


def _file(stamp: str, root: Path) -> Path:
    return root / FOLDER / f"{stamp}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _files(package: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of every file of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".py", ".json"):
                at = path.stat()
                yield str(path.relative_to(folder)), at.st_size, at.st_mtime_ns
