"""A Hydra sweeper whose jobs are the union of several grids, each a product of its values.

Hydra's own sweeper multiplies everything with everything. An ablation is rather a list of curves:
sharpened attention over temperatures, local attention over windows, vanilla once. In a preset::

    defaults: [override /hydra/sweeper: union]
    hydra:
      sweeper:
        grids:
          - {attention: "vanilla,csa"}
          - {attention: sharpened, attention.temperature: "0.5,1,2"}
          - {unless: {backbone: patchwork_vit}, attention: csa, backbone: ViT-L-14, keep: backbone}

``when`` and ``unless`` look at the choices of groups without the grid's own (patterns such as
``ViT-*``). What is typed on the command line goes into every grid and comes before its values, but
for those keys that a grid says it has to ``keep``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from sclip_lab.config.plain_config import plain_config
from sclip_lab.core.errors import LabError
from sclip_lab.core.values import shown

ABOUT = ("when", "unless", "keep")  # keys of a grid that are no overrides


class UnionSweeper(BasicSweeper):
    """Hydra's sweeper over ``grids``; see the top of the file.

    Args:
        grids: each maps keys to comma-separated values, with ``when`` and ``unless``.
        params: what all grids have in common.
        max_batch_size: jobs handed to the launcher at once; None: all.
    """

    def __init__(
        self,
        grids: Sequence[Mapping[str, Any]] = (),
        params: dict[str, str] | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        # Not by super(): Hydra loads its plugins' files again, and the class that its __init__
        # names is then another one.
        self.overrides = None
        self.batch_index = 0
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})
        self.hydra_context = None
        self.config = None
        self.launcher = None
        self.grids = plain_config(grids)

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        assert self.config is not None
        if max_batch_size is not None and (type(max_batch_size) is not int or max_batch_size < 1):
            raise LabError(
                f"hydra.sweeper.max_batch_size: {shown(max_batch_size)} must be 1 or more, or null"
            )
        jobs = _union(self.grids, overrides, plain_config(self.config.hydra.runtime.choices))
        return [list(chunk) for chunk in self.split_overrides_to_chunks(jobs, max_batch_size)]


def expand(
    grids: Sequence[Mapping[str, Any]], arguments: Iterable[str], choices: Mapping[str, Any]
) -> list[list[str]]:
    """The jobs' overrides.

    Args:
        grids: see the top of the file.
        arguments: overrides that come before the grids' values; commas sweep.
        choices: of groups where neither grid nor arguments say.
    """
    return _union(grids, OverridesParser.create().parse_overrides(list(arguments)), choices)


def _union(
    grids: Sequence[Mapping[str, Any]], typed: list[Override], choices: Mapping[str, Any]
) -> list[list[str]]:
    _check(grids)
    parser = OverridesParser.create()
    jobs: dict[tuple[str, ...], None] = {}
    for grid in grids or [{}]:
        texts = [f"{key}={value}" for key, value in grid.items() if key not in ABOUT]
        kept = str(grid.get("keep", "")).split(",")
        given = [o for o in typed if o.get_key_element() not in kept]
        (product,) = BasicSweeper.split_arguments([*parser.parse_overrides(texts), *given], None)
        for job in product:
            words = dict(text.split("=", 1) for text in job)
            own = {o.get_key_element(): str(o.input_line).partition("=")[2] for o in typed}
            asked = {key: value if key in kept else words[key] for key, value in own.items()}
            chosen = {**choices, **asked}
            fits = all(_matches(chosen, key, value) for key, value in grid.get("when", {}).items())
            ruled_out = any(
                _matches(chosen, key, value) for key, value in grid.get("unless", {}).items()
            )
            if fits and not ruled_out:
                jobs[tuple(job)] = None
    return [list(job) for job in jobs]


def _check(grids: Any) -> None:
    """That a preset's grids are what the top of this file says."""
    if not isinstance(grids, list | tuple | type(None)):
        raise LabError(f"hydra.sweeper.grids: {shown(grids)} must be a list of mappings")
    for number, grid in enumerate(grids or []):
        where = f"hydra.sweeper.grids.{number}"
        if not isinstance(grid, Mapping):
            raise LabError(f"{where}: {shown(grid)} must map keys to values")
        for key in ("when", "unless"):
            if not isinstance(grid.get(key, {}), Mapping):
                raise LabError(f"{where}.{key}: {shown(grid[key])} must map groups to patterns")
        for key, value in grid.items():
            if not isinstance(key, str) or not key.strip() or "=" in key:
                raise LabError(f"{where}: {shown(key)} is no key")
            if key not in ABOUT and isinstance(value, dict):
                raise LabError(f"{where}.{key}: {shown(value)} must be text, commas between values")


def _matches(chosen: Mapping[str, Any], key: str, pattern: str) -> bool:
    return fnmatchcase(str(chosen.get(key)), pattern)
