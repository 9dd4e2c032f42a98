"""Hydra looks for yaml files where the laboratory does: plugins must live below this package."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from sclip_lab.app.conf import folders


class OwnFolders(SearchPathPlugin):
    """The folders of `sclip_lab.app.conf` behind the package's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in folders()[1:]:
            search_path.append("sclip_lab", f"file://{folder}")
