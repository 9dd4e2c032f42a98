"""Hydra's name for the sweeper over several grids: plugins must live below ``hydra_plugins``."""

from __future__ import annotations

from sclip_lab.app.union import UnionSweeper as _UnionSweeper


class UnionSweeper(_UnionSweeper):
    """See `sclip_lab.app.union`."""
