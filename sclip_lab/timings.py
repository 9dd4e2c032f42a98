"""Where the seconds went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Wall-clock seconds by stage, and the images they were spent on.

    Attributes:
        synchronise: called around every stage: `torch.cuda.synchronize` where a GPU works on after
            a call has returned, so that its time counts for the stage that asked for it.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0
    synchronise: Callable[[], None] = lambda: None

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        self.synchronise()
        start = time.perf_counter()
        yield
        self.synchronise()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def report(self) -> str:
        """Milliseconds per image and stage, in the order in which stages first came."""
        if not self.images:
            return "nothing was computed: all cells were in the store"
        lines = [f"{self.images} images, milliseconds per image:"]
        for stage, seconds in self.seconds.items():
            lines.append(f"  {stage:<36}{1000 * seconds / self.images:9.1f}")
        total = 1000 * sum(self.seconds.values()) / self.images
        return "\n".join([*lines, f"  {'sum':<36}{total:9.1f}"])
