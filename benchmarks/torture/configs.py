"""Every value of a composed configuration, replaced by what cannot be meant."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from benchmarks.torture.confine import nameable
from benchmarks.torture.lines import SMALL
from benchmarks.torture.outcomes import BAD, Outcomes
from sclip_lab import results
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.errors import LabError
from sclip_lab.run import job, tracking

SECOND = [
    "guidance=dino_vitb16",
    "guidance.name=vit_tiny_patch16_224",
    "guidance.pretrained=false",
    "guidance.options={depth: 2}",
]
STARTS: list[list[str]] = [
    [], ["attention=naclip", "protocol=naclip"], ["attention=resclip"], ["refinement=pamr"],
    ["protocol=unified", "attention=gem"], ["attention=scclip", "readout=maskclip"],
    ["attention=csa_random"], ["protocol=segearth"], ["readout=surgery", "attention=surgery"],
    ["attention=cliptrase", "readout=cliptrase"], ["attention=registers"],
    ["readout=lposs", *SECOND], ["attention=proxyclip", *SECOND],
]  # fmt: skip
TOO_DEEP: Any = "deep"
for _ in range(60):
    TOO_DEEP = [TOO_DEEP]
VALUES = nameable([
    *BAD, TOO_DEEP, {"_target_": "sclip_lab.attention.nothing.at_all"}, "???", "a\nb", "<b>",
    [0, 0], [1, 0], [-1, -1], [[1, 2], [3]], "/dev/zero", "$x$",
])  # fmt: skip


def values(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Made into a cell, and some evaluated on one small photo."""
    own = f"paths.store={folder / 'store'}"
    bases = [sweep([*start, *_small(start), own])[0] for start in STARTS]
    keys = [list(leaves(base)) for base in bases]
    for number in range(cases):
        which = number % len(bases)
        key, value = generator.choice(keys[which]), generator.choice(VALUES)

        def run(
            base: Any = bases[which],
            key: str = key,
            value: Any = value,
            whole: bool = number % 16 == 0,
        ) -> None:
            config = base.copy()
            try:
                with open_dict(config):
                    OmegaConf.update(config, key, value, merge=False)
            except (OmegaConfBaseException, ValueError, TypeError, RecursionError):
                return  # Hydra's to refuse
            job.make_spec(config)
            tracking.check(config.tracking)
            if not whole:
                return
            (text,) = job.compute([config])
            if text is not None:
                raise LabError(text)
            frame = results.load(config.paths.store, partial=True)
            assert results.summary(frame)["miou"].notna().all(), "a score that is no number"

        what = f"{' '.join(STARTS[which])} {key}={value!r}"
        logging.disable(logging.CRITICAL)
        try:
            outcomes.case(what[:140], key.rpartition(".")[2], run, _value(value))
        finally:
            logging.disable(logging.WARNING)


def _value(value: Any) -> str:
    """What an error has to say of it."""
    value = next(iter(value.values()), value) if isinstance(value, dict) else value
    return ascii(value)[1:-1][:20] if isinstance(value, str) else repr(value)[:20]


def _small(start: list[str]) -> list[str]:
    patchwork = not any(word.startswith("dataset=") for word in start)
    return [word for word in SMALL if patchwork or not word.startswith("dataset.")]


def leaves(config: Any) -> Iterator[str]:
    """Every dotted key of a configuration but those of Hydra's own section."""
    return (key for key, _ in _leaves(OmegaConf.to_container(config)))


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key == "hydra":
            continue
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
