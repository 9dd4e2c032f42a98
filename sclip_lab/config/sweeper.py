"""A Hydra sweeper that runs several grids, each the product of its values.

Hydra's own sweeper runs the product of all values. An ablation is often a list of curves instead:
sharpened attention over temperatures, local attention over windows, vanilla once. In a preset::

    hydra:
      sweeper:
        grids:
          - {attention: "vanilla,csa"}
          - {attention: sharpened, attention.temperature: "0.5,1,2"}
          - {unless: {backbone: patchwork_vit}, attention: csa, backbone: ViT-L-14, keep: backbone}

``when`` and ``unless`` compare the choices of groups with patterns such as ``ViT-*``. The grid's
own values do not count as choices. Overrides on the command line apply to every grid and
replace its values, except for the keys in ``keep``.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from sclip_lab.config.composition import CONFIG, Loader, UnknownKey, key_of, plain_config
from sclip_lab.core.errors import LabError
from sclip_lab.core.values import shown

log = logging.getLogger(__name__)
MOST_JOBS = 100_000  # of one grid; more jobs are a slip, and would fill the memory
ABOUT = ("when", "unless", "keep")  # keys of a grid that are no overrides


class UnionSweeper(Sweeper):
    """Hydra's sweeper for several grids.

    Args:
        grids: each maps keys to comma-separated values, see the top of the file.
        params: keys and values for all grids.
    """

    def __init__(
        self, grids: Sequence[Mapping[str, Any]] = (), params: Mapping[str, str] | None = None
    ) -> None:
        self.grids = plain_config(grids)
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Write multirun.yaml, as Hydra's own sweeper does, and launch all jobs."""
        assert self.config is not None
        choices = plain_config(self.config.hydra.runtime.choices)
        jobs = expand(self.grids, [*_lines(self.params), *arguments], choices)
        if not jobs:
            raise LabError(f"{' '.join(arguments)}: no grid of the preset fits these choices")
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        returns = self.launcher.launch(jobs, 0)
        for job in returns:
            _ = job.return_value  # raises the job's error if it failed
        return list(returns)


def expand(
    grids: Sequence[Mapping[str, Any]], words: Sequence[str], choices: Mapping[str, Any]
) -> list[list[str]]:
    """The overrides of all jobs.

    Args:
        grids: see the top of the file.
        words: overrides that replace the grids' values; commas sweep.
        choices: group -> choice, for ``when`` and ``unless``; ``words`` replace them.

    Raises:
        LabError: a word is no override, or a grid is malformed.
    """
    check_grids(grids)
    loader = Loader()
    typed = loader.parsed(words)
    jobs: dict[tuple[str, ...], None] = {}
    for grid in grids or [{}]:
        to_keep = str(grid.get("keep", "")).split(",")
        lines = loader.parsed(_lines({k: v for k, v in grid.items() if k not in ABOUT}))
        lines += [override for override in typed if override.get_key_element() not in to_keep]
        values = {override.get_key_element(): _values(override) for override in lines}
        if math.prod(map(len, values.values())) > MOST_JOBS:
            raise LabError(f"{' '.join(map(str, values))}: more than {MOST_JOBS} jobs in one sweep")
        on_line = {o.get_key_element(): str(o.input_line).partition("=")[2] for o in typed}
        for combination in itertools.product(*values.values()):
            job = dict(zip(values, combination, strict=True))
            chosen = {**choices, **{k: v if k in to_keep else job[k] for k, v in on_line.items()}}
            fits = [_matches(chosen, *one) for one in grid.get("when", {}).items()]
            excluded = [_matches(chosen, *one) for one in grid.get("unless", {}).items()]
            if all(fits) and not any(excluded):
                jobs[tuple(_lines(job))] = None
    return [list(job) for job in jobs]


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _values(override: Override) -> list[str]:
    """The values of an override, as text: several if it sweeps, else one."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise LabError(f"{override.input_line}: must be a list or range of values")
    try:
        texts = list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except (HydraException, TypeError, ValueError) as error:  # such as a range with a step of 0
        raise LabError(f"{override.input_line}: {error}") from error
    if not texts:
        raise LabError(f"{override.input_line}: gives no value")
    swept = override.value()
    if not isinstance(swept, RangeSweep) or swept.stop is None:
        return texts
    # Hydra adds steps in binary, so rounding makes 0.30000000000000004 or repeats the end.
    ends = [Decimal(repr(end)) for end in (swept.start, swept.stop, swept.step)]
    digits = max(-int(end.as_tuple().exponent) for end in ends)
    numbers = [round(float(text), digits) for text in texts]
    inside = [n < swept.stop if swept.step > 0 else n > swept.stop for n in numbers]
    exact = [
        str(number) if "." in text else text for number, text in zip(numbers, texts, strict=True)
    ]
    return list(itertools.compress(exact, inside))


def check_grids(grids: Any) -> None:
    """Check that a preset's grids have the form at the top of this file."""
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


def sweep(words: Sequence[str]) -> list[DictConfig]:
    """The configurations of ``sclip-lab evaluate -m <words>`` without launching them."""
    loader = Loader()
    master = loader.load_configuration(CONFIG, list(words), RunMode.MULTIRUN, from_shell=False)
    sweeper = master.hydra.sweeper
    grids, params = plain_config(sweeper.get("grids")), plain_config(sweeper.get("params"))
    lines = [*_lines(params or {}), *master.hydra.overrides.task]
    jobs = expand(grids or [], lines, plain_config(master.hydra.runtime.choices))
    return compose_jobs(jobs, partial(loader.load_sweep_config, master))


def compose_jobs(
    jobs: Sequence[Sequence[str]], load: Callable[[list[str]], DictConfig]
) -> list[DictConfig]:
    """Compose the configuration of each job from its overrides. A job whose choices lack a key is
    composed without the key.

    Returns:
        one configuration for each job; jobs that become equal count once.

    Raises:
        LabError: the overrides do not compose, or no job has a key (did you mean).
    """
    configs: dict[tuple[str, ...], DictConfig] = {}
    lacking: dict[str, list[UnknownKey]] = {}
    for job in jobs:
        words = list(job)
        while tuple(words) not in configs:
            try:
                configs[tuple(words)] = load(words)
            except UnknownKey as error:
                if error.key not in map(key_of, words):
                    raise
                lacking.setdefault(error.key, []).append(error)
                words = [word for word in words if key_of(word) != error.key]
    for key, errors in lacking.items():
        if not any(key in map(key_of, words) for words in configs):
            raise errors[0]
        log.info(
            "%s: left out of %d of %d jobs, which have no such key", key, len(errors), len(jobs)
        )
    return list(configs.values())
