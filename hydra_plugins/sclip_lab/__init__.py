"""The search path, launchers and sweeper of sclip_lab, where Hydra looks for plug-ins."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from sclip_lab.config.folders import folders
from sclip_lab.config.sweeper import UnionSweeper as _UnionSweeper
from sclip_lab.run.launcher import FusedLauncher as _FusedLauncher
from sclip_lab.run.launcher import JobsLauncher as _JobsLauncher


class OwnFolders(SearchPathPlugin):
    """Puts the folders of `sclip_lab.config.folders` behind the package's own in Hydra's search."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in folders()[1:]:
            search_path.append("sclip_lab", f"file://{folder}")


# Hydra takes only classes that are defined in the plug-in's own module.
class FusedLauncher(_FusedLauncher):
    """See `sclip_lab.run.launcher`."""


class JobsLauncher(_JobsLauncher):
    """See `sclip_lab.run.launcher`."""


class UnionSweeper(_UnionSweeper):
    """See `sclip_lab.config.sweeper`."""
