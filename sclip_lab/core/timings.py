"""How many seconds each stage of an evaluation takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ONCE = ("text",)  # stages whose time does not grow with the number of images


@dataclass
class Timings:
    """Wall-clock seconds by stage.

    Attributes:
        seconds: stage -> seconds.
        images: how many images were evaluated.
        cells: how many cells were requested.
        stored: how many of them were complete in the store.
        synchronise: called around each stage. On a GPU it is `torch.cuda.synchronize`: a call
            returns before the GPU has finished, and the time belongs to the stage of the call.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0
    cells: int = 0
    stored: int = 0
    synchronise: Callable[[], None] = lambda: None

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        self.synchronise()
        start = time.perf_counter()
        yield
        self.synchronise()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def report(self) -> str:
        """One line: images, milliseconds per image with the shares of the four longest stages,
        seconds of stages that run once, and how many cells were in the store already."""
        if not self.images:
            return "nothing was computed: all cells were in the store"
        per_image = {stage: s for stage, s in self.seconds.items() if stage not in ONCE}
        total = sum(per_image.values())
        longest = sorted(per_image.items(), key=lambda item: -item[1])[:4]
        shares = ", ".join(f"{stage} {100 * s / max(total, 1e-9):.0f} %" for stage, s in longest)
        line = f"{self.images} images, {1000 * total / self.images:.0f} ms each: {shares}"
        once = [f"{stage} {self.seconds[stage]:.1f} s" for stage in ONCE if stage in self.seconds]
        line += f"; once: {', '.join(once)}" if once else ""
        if self.stored:
            line += f"; {self.stored} of {self.cells} cells were in the store"
        return line
