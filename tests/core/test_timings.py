"""What a run says of its seconds."""

from __future__ import annotations

from pathlib import Path

import sclip_lab as lab
from sclip_lab.core.timings import Timings


def test_what_is_done_once_is_not_spread_over_photos() -> None:
    timings = Timings({"text": 9.0, "trunk": 2.0, "csa": 1.0}, images=10, cells=3, stored=2)
    line = timings.report()
    assert line.startswith("10 images, 300 ms each: trunk 67 %, csa 33 %")
    assert line.endswith("; once: text 9.0 s; 2 of 3 cells were in the store")
    assert Timings().report().startswith("nothing was computed")


def test_cells_in_the_store_are_counted(tmp_path: Path) -> None:
    data = lab.load_dataset("patchwork", limit=1)
    options = {"dataset": data, "progress": False}
    lab.evaluate(["vanilla"], tmp_path, **options)
    timings = Timings()
    lab.evaluate(["vanilla", "csa", "maskclip"], tmp_path, timings=timings, **options)
    assert (timings.cells, timings.stored) == (3, 1)
    assert "1 of 3 cells were in the store" in timings.report()
