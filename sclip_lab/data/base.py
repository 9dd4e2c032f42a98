"""What a data set is: photos with masks, class names, and a digest of everything."""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import locate
from sclip_lab.core.values import check_arguments, check_count, within
from sclip_lab.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sample:
    """One photo with its mask."""

    name: str  # unique within the data set
    image: np.ndarray  # (height, width, 3) uint8, RGB
    # (height, width) class ids or ``ignore_index``: uint8, or uint16 where an id is above 255.
    mask: np.ndarray


class Dataset(ABC):
    """Photos with masks, in a fixed order."""

    name: str  # what a table calls it
    vocabulary: Vocabulary
    ignore_index: int = 255  # the mask's value of pixels that are not counted
    split: str = ""  # which part, such as "val"; empty if there are no parts
    selection: str = ""  # which photos are taken, such as "first 8"; empty for all
    unpaired: Sequence[str] = ()  # files that are no samples, such as "2 masks without a photo"

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The samples' names in evaluation order."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``; a LabError names the file if it cannot be used."""

    @property
    @abstractmethod
    def key(self) -> str:
        """sha256 of everything that can change a number: pixels, masks, order, ids."""

    def __len__(self) -> int:
        return len(self.names)


def select(names: Sequence[str], limit: int | None, sample: int | None, seed: int) -> list[str]:
    """Choose some of a data set's samples; they stay in their order.

    Args:
        names: all samples.
        limit: take the first ``limit`` of them, 1 or more; None for all.
        sample: draw this many of the first ``limit`` at random, none of them twice, 1 or more; None
            for all.
        seed: of the draw, 0 or more. A seed draws the same photos on every machine.

    Raises:
        LabError: a limit or sample below 1, or a seed below 0.
    """
    check_count("dataset.limit", limit)
    check_count("dataset.sample", sample)
    within("dataset.seed", seed, 0)
    chosen = list(names[:limit])
    if sample is None or sample >= len(chosen):
        return chosen
    places = np.random.Generator(np.random.PCG64(seed)).permutation(len(chosen))[:sample]
    return [chosen[index] for index in sorted(places.tolist())]


def selection_words(
    limit: int | None, sample: int | None, seed: int, total: float = math.inf
) -> str:
    """Describe in words which of ``total`` samples `select` takes; empty if it takes all."""
    listed = total if limit is None else min(limit, total)
    first = "" if listed == total else f"first {limit}"
    at_random = "" if sample is None or sample >= listed else f"{sample} at random (seed {seed})"
    return " of the ".join(part for part in (at_random, first) if part)


class Part(Dataset):
    """Some samples of a data set whose class does not accept ``limit`` and ``sample``."""

    def __init__(self, whole: Dataset, limit: int | None, sample: int | None, seed: int) -> None:
        self.whole = whole
        self.name, self.vocabulary = whole.name, whole.vocabulary
        self.ignore_index = whole.ignore_index
        self.split = getattr(whole, "split", "")
        self.selection = selection_words(limit, sample, seed, len(whole))
        places = {name: index for index, name in enumerate(whole.names)}
        self._names = select(list(places), limit, sample, seed)
        self._places = [places[name] for name in self._names]

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self._places[index]]

    @cached_property
    def key(self) -> str:
        if len(self) == len(self.whole):
            return self.whole.key
        return hashlib.sha256("\n".join([self.whole.key, *self._names]).encode()).hexdigest()


COMMON = ("split", "limit", "sample", "seed")  # keys that a yaml may set to null for any data set
_REQUIRED = ("name", "vocabulary", "ignore_index", "names", "key", "__getitem__", "__len__")


def whole_counts(expected: int | Sequence[int] | None) -> list[int]:
    """Return ``expected`` of a yaml, one count of photos or several, as a list of counts."""
    return [expected] if isinstance(expected, int) else list(expected or ())


def build(config: Mapping[str, Any], faults: list[str] | None = None) -> Dataset:
    """Build a data set from the content of its yaml.

    Args:
        config: ``_target_`` and its parameters. The target is a class of this package, or anything
            in an allowed module that returns a data set. Every data set takes ``limit``, ``sample``
            and ``seed``; one with splits also takes ``split``.
        faults: a list that collects the errors of single samples; None raises the first error.

    Raises:
        LabError: an unknown target or parameter (did you mean), a target that is not allowed, or
            files that are not there.
    """
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    if "_target_" not in config:
        raise LabError(f"dataset {parameters.get('name', '')}: has no _target_; name its class")
    for key, value in parameters.items():
        if value == "???":  # OmegaConf's mark for a missing value
            raise LabError(f"dataset.{key} is missing: type dataset.{key}=...")
    make = locate(config["_target_"], ("sclip_lab.data",))
    ours = make.__module__.startswith("sclip_lab.")
    if ours and not (inspect.isclass(make) and issubclass(make, Dataset)):
        raise LabError(f"_target_ {config['_target_']}: is no data set")
    accepted = list(inspect.signature(make).parameters)
    for key in COMMON:  # null in conf/config.yaml means the default of the class
        if parameters.get(key) is None:
            parameters.pop(key, None)
    part = _pop_part(parameters, accepted, str(parameters.get("name", make.__name__)))
    _check_parameters(make, parameters)
    if faults is not None and "faults" in accepted:
        parameters["faults"] = faults
    dataset = make(**parameters)
    check_dataset(dataset, f"_target_ {config['_target_']}")
    return Part(dataset, **part) if part else dataset


def check_dataset(dataset: Any, source: str = "dataset") -> None:
    """Refuse an object that is no data set, or one that would give wrong numbers."""
    # hasattr would compute the key, which hashes every file.
    absent = object()
    missing = [n for n in _REQUIRED if inspect.getattr_static(dataset, n, absent) is absent]
    if missing:
        raise LabError(
            f"{source} gives {type(dataset).__name__}, which is no data set; it lacks "
            f"{', '.join(missing)}"
        )
    classes, ignored, names = dataset.vocabulary, dataset.ignore_index, dataset.names
    if not isinstance(classes, Vocabulary):
        kind = type(classes).__name__
        raise LabError(f"{source}: vocabulary is a {kind}; give Vocabulary.of(name, names)")
    if not isinstance(ignored, int | np.integer) or ignored < classes.num_classes:
        raise LabError(
            f"{source}: ignore_index is {ignored!r}, but ids up to {classes.num_classes - 1} are "
            "classes"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabError(f"{source}: two samples are named {twice!r}; each needs its own name")


def _pop_part(parameters: dict[str, Any], accepted: Sequence[str], name: str) -> dict[str, Any]:
    """Remove common keys that the class does not accept; return `Part`'s arguments, if needed."""
    if "split" not in accepted and "split" in parameters:
        raise LabError(f"dataset.split: data set '{name}' has no splits")
    part: dict[str, Any] = {
        key: None if key in accepted else parameters.pop(key, None) for key in ("limit", "sample")
    }
    # A class may have a seed of its own; the same number is used for both.
    part["seed"] = parameters.get("seed", 0)
    if "seed" not in accepted:
        parameters.pop("seed", None)
    check_arguments(select, part, "dataset.")
    return {} if part["limit"] is None and part["sample"] is None else part


def _check_parameters(make: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    signature = inspect.signature(make)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        for name in parameters.keys() - signature.parameters.keys():
            title = f"parameter of {make.__name__}"
            raise unknown(title, str(name), signature.parameters) from None
        raise LabError(f"{make.__name__}: {error}") from None
    check_arguments(make, parameters, "dataset.")
