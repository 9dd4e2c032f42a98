"""The jobs of a sweep, composed without launching them: what ``-m`` would hand to the launcher.

Hydra composes a job in a tenth of a second, and a report has some two hundred. So each choice of
groups is composed once, and values are set in a copy of it, as Hydra itself does at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.config.composition import composed, loader
from sclip_lab.config.folders import names
from sclip_lab.config.plain_config import plain_config
from sclip_lab.config.sweeper import expand
from sclip_lab.core.errors import LabError


def sweep(arguments: Sequence[str]) -> list[DictConfig]:
    """The configurations of ``sclip-lab evaluate -m <arguments>``, with as much of Hydra's own
    section as specs are made from.

    Args:
        arguments: Hydra overrides; commas sweep.

    Raises:
        LabError: they do not compose.
    """
    parser = OverridesParser.create(loader())
    try:
        parsed = parser.parse_overrides(list(arguments))
        presets = [str(o.input_line) for o in parsed if o.key_or_group == "experiment"]
        typed = [o for o in parsed if o.key_or_group != "experiment"]
        fixed = [str(o.input_line) for o in typed if not o.is_sweep_override()]
        base = composed(*presets, *fixed).hydra
        params = plain_config(base.sweeper.get("params")) or {}
        grids = plain_config(base.sweeper.get("grids")) or []
        lines = [f"{key}={value}" for key, value in params.items()]
        lines += [str(o.input_line) for o in typed]
        jobs = expand(grids, lines, plain_config(base.runtime.choices))
        return [_job(presets, parser.parse_overrides(job)) for job in jobs]
    except (HydraException, OmegaConfBaseException) as error:
        raise LabError(f"{' '.join(arguments)}: {' '.join(str(error).split())}") from error


def _job(presets: list[str], overrides: list[Override]) -> DictConfig:
    values = [o for o in overrides if _sets_a_value(o)]
    groups = [str(o.input_line) for o in overrides if o not in values]
    config = composed(*presets, *groups)
    choices = plain_config(config.hydra.runtime.choices)
    with open_dict(config):
        config.hydra = {
            "runtime": {"choices": choices},
            "overrides": {"task": [*presets, *(str(o.input_line) for o in overrides)]},
        }
    for override in values:
        OmegaConf.update(config, override.get_key_element(), override.value(), merge=True)
    return config


def _sets_a_value(override: Override) -> bool:
    return not names(override.key_or_group) and override.type == OverrideType.CHANGE
