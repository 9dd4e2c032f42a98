"""The Hydra application behind ``sclip-lab evaluate`` and ``python experiments/evaluate.py``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from sclip_lab import config, experiment


@hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float:
    return experiment.run(cfg)
