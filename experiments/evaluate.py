"""Evaluate one variant, or with -m a whole sweep in one fused pass.

    python experiments/evaluate.py attention=csa dataset=patchwork
    python experiments/evaluate.py -m attention=vanilla,csa,maskclip
    python experiments/evaluate.py -m experiment=temperature
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from sclip_lab import config, experiment


@hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float:
    return experiment.run(cfg)


if __name__ == "__main__":
    main()
