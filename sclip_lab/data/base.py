"""What a data set is: photos with masks, class names, and a digest of all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

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

    @abstractmethod
    def digest(self) -> str:
        """sha256 of everything here that can change a number: pixels, masks, order, ids."""

    def __len__(self) -> int:
        return len(self.names)
