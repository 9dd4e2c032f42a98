"""Hydra's name for the fused launcher: plugins must live below ``hydra_plugins``."""

from __future__ import annotations

from sclip_lab.app.launcher import FusedLauncher as _FusedLauncher


class FusedLauncher(_FusedLauncher):
    """See `sclip_lab.app.launcher`."""
