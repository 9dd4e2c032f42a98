"""Hydra's name for the launcher of jobs: plugins must live below ``hydra_plugins``."""

from __future__ import annotations

from sclip_lab.app.launcher import JobsLauncher as _JobsLauncher


class JobsLauncher(_JobsLauncher):
    """See `sclip_lab.app.launcher`."""
