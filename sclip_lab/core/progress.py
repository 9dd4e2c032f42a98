"""Progress bars, for terminals and notebooks only. In a file a bar would be one endless line."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar, hidden for nothing, and if stderr is neither a terminal nor a notebook."""

    def __init__(self, *args: Any, **options: Any) -> None:
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        nothing = bool(args) and hasattr(args[0], "__len__") and not len(args[0])
        options["disable"] = options.get("disable", False) or nothing or not watched
        super().__init__(*args, **options)
