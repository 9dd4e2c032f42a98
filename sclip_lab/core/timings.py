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
        """One line: images, milliseconds per image, and the share of the four largest stages."""
        if not self.images:
            return "nothing was computed: all cells were in the store"
        total = sum(self.seconds.values())
        largest = sorted(self.seconds.items(), key=lambda item: -item[1])[:4]
        shares = ", ".join(f"{stage} {100 * s / max(total, 1e-9):.0f} %" for stage, s in largest)
        return f"{self.images} images, {1000 * total / self.images:.0f} ms each: {shares}"

    def table(self) -> str:
        """Milliseconds per image and stage, in the order in which stages first came."""
        images = max(self.images, 1)
        return "\n".join(f"  {n:<36}{1000 * s / images:9.1f} ms" for n, s in self.seconds.items())
