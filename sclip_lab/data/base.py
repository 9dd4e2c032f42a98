"""What a data set is: photos with masks, class names, and a digest of all of it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import locate
from sclip_lab.core.values import check_arguments
from sclip_lab.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sample:
    """One photo with its mask.

    Attributes:
        name: unique within the data set.
        image: (height, width, 3) uint8, RGB.
        mask: (height, width) uint8, class ids in 0 .. num_classes - 1, or ``ignore_index``.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray


class Dataset(ABC):
    """Photos with masks, in a fixed order."""

    name: str
    vocabulary: Vocabulary
    ignore_index: int = 255

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The samples' names in evaluation order."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``; raises LabError naming the file when it cannot be used."""

    @property
    @abstractmethod
    def key(self) -> str:
        """sha256 of everything here that can change a number: pixels, masks, order, ids."""

    def __len__(self) -> int:
        return len(self.names)


_NEEDED = ("name", "vocabulary", "ignore_index", "names", "key", "__getitem__", "__len__")


def build(config: Mapping[str, Any]) -> Dataset:
    """A data set from the content of its yaml.

    Args:
        config: ``_target_``, a class of this package or whatever an allowed module has that gives
            a data set, and its parameters.

    Raises:
        LabError: an unknown target or parameter (did you mean), one that is not allowed, or data
            that are not there.
    """
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    if "_target_" not in config:
        raise LabError(f"dataset {parameters.get('name', '')}: has no _target_; name its class")
    make = locate(config["_target_"], ("sclip_lab.data",))
    own = make.__module__.startswith("sclip_lab.")
    if own and not (inspect.isclass(make) and issubclass(make, Dataset)):
        raise LabError(f"_target_ {config['_target_']}: is no data set")
    _check_parameters(make, parameters)
    dataset = make(**parameters)
    missing = [name for name in _NEEDED if not hasattr(dataset, name)]
    if missing:
        raise LabError(
            f"_target_ {config['_target_']}: gives {type(dataset).__name__}, which is no data set; "
            f"it lacks {', '.join(missing)}"
        )
    return dataset


def _check_parameters(make: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    signature = inspect.signature(make)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        known = list(signature.parameters)
        for name in set(parameters) - set(known):
            raise unknown(f"parameter of {make.__name__}", str(name), known) from None
        raise LabError(f"{make.__name__}: {error}") from None
    check_arguments(make, parameters, "dataset.")
