"""Count pixels and photos of each class while masks are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sclip_lab.data.vocabulary import Vocabulary

MUCH_IGNORED = 0.5  # share of pixels above which a score says little about the data set


class Census:
    """Counts over the masks of a data set."""

    def __init__(self, vocabulary: Vocabulary, ignore_index: int) -> None:
        self.vocabulary, self.ignore_index = vocabulary, ignore_index
        self.photos = 0
        self.ignored = 0  # pixels
        self.pixels = np.zeros(vocabulary.num_classes, np.int64)  # of each class
        self.occurrences = np.zeros(vocabulary.num_classes, np.int64)  # photos with each class

    def add(self, mask: np.ndarray) -> None:
        """Count one mask, (height, width) class ids or ``ignore_index``."""
        counts = np.bincount(mask.ravel(), minlength=self.ignore_index + 1)
        classes = counts[: len(self.pixels)]
        self.photos += 1
        self.ignored += int(counts[self.ignore_index])
        self.pixels += classes
        self.occurrences += classes > 0

    @property
    def share_ignored(self) -> float:
        """Share of ignored pixels among all; 0 if nothing was counted."""
        return self.ignored / max(1, self.ignored + int(self.pixels.sum()))

    @property
    def shares(self) -> np.ndarray:
        """(num_classes,) share of each class among the pixels that are not ignored."""
        return self.pixels / max(1, int(self.pixels.sum()))

    @property
    def absent(self) -> list[str]:
        """Names of the classes that occur in no mask."""
        counted = zip(self.vocabulary.names, self.pixels.tolist(), strict=True)
        return [name for name, pixels in counted if pixels == 0]

    @property
    def only_first_class(self) -> bool:
        """Whether there are several classes and all counted pixels are of class 0."""
        return len(self.pixels) > 1 and self.pixels[0] > 0 and not self.pixels[1:].any()

    def facts(self) -> list[str]:
        """Lines of text: the share of ignored pixels, then each class's share of pixels and number
        of photos."""
        if not self.photos:
            return []
        lines = [f"{self.share_ignored:.1%} of pixels are ignored"]
        width = max(len(name) for name in self.vocabulary.names)
        lines.append(f"{'id':>4}  {'class'.ljust(width)}  pixels   photos")
        for index, name in enumerate(self.vocabulary.names):
            share, photos = self.shares[index], f"{self.occurrences[index]:>4} of {self.photos}"
            lines.append(f"{index:>4}  {name.ljust(width)}  {share:>6.2%}  {photos}")
        return lines

    def warnings(self, turned: Sequence[str] = ()) -> list[str]:
        """Lines on what to know before quoting a number; EXIF tags turn the photos ``turned``."""
        if not self.photos:
            return []
        lines = []
        if turned:
            lines.append(
                f"{len(turned)} of {self.photos} photos are turned by their EXIF tags, such as "
                f"{turned[0]}; look whether their masks are upright: equal sizes do not tell"
            )
        if self.share_ignored > MUCH_IGNORED:
            lines.append(
                f"{self.share_ignored:.1%} of pixels are ignored: scores are of the rest alone"
            )
        if self.only_first_class:
            lines.append(
                f"every counted pixel is of class 0, '{self.vocabulary.names[0]}': no score of "
                "these masks means anything"
            )
        elif self.absent:
            names = ", ".join(self.absent[:10]) + (", ..." if len(self.absent) > 10 else "")
            lines.append(f"{len(self.absent)} classes occur in no mask: {names}")
        return lines
