"""One laboratory for training-free attention variants of CLIP.

>>> import sclip_lab as lab
>>> variant = lab.load_attention("csa", temperature=0.5)
>>> backbone = lab.load_backbone("ViT-B-16-quickgelu", pretrained="openai")  # doctest: +SKIP
>>> lab.dense_features(backbone, images, variant).shape  # doctest: +SKIP
torch.Size([1, 14, 14, 512])

Imports are lazy: ``import sclip_lab`` is quick, and what is not used is not loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclip_lab import results as results
    from sclip_lab.config.plugins import allow as allow
    from sclip_lab.config.registry import load_attention as load_attention
    from sclip_lab.config.registry import load_backbone as load_backbone
    from sclip_lab.config.registry import load_dataset as load_dataset
    from sclip_lab.config.registry import load_guidance as load_guidance
    from sclip_lab.config.registry import load_protocol as load_protocol
    from sclip_lab.config.registry import variant as variant
    from sclip_lab.core.errors import LabError as LabError
    from sclip_lab.core.functions import block_edit as block_edit
    from sclip_lab.core.functions import prior_of_grid as prior_of_grid
    from sclip_lab.core.functions import reads_others as reads_others
    from sclip_lab.core.functions import refines_labels as refines_labels
    from sclip_lab.core.functions import refines_logits as refines_logits
    from sclip_lab.run.library import Spec as Spec
    from sclip_lab.run.library import attention_maps as attention_maps
    from sclip_lab.run.library import dense_features as dense_features
    from sclip_lab.run.library import evaluate as evaluate
    from sclip_lab.run.library import explore as explore
    from sclip_lab.run.library import segment as segment
    from sclip_lab.segmentation.protocol import Protocol as Protocol

_PUBLIC = {
    "LabError": "core.errors",
    "allow": "config.plugins",
    "block_edit": "core.functions",
    "prior_of_grid": "core.functions",
    "reads_others": "core.functions",
    "refines_labels": "core.functions",
    "refines_logits": "core.functions",
    "testing": "",
    "variant": "config.registry",
    "Protocol": "segmentation.protocol",
    "Spec": "run.library",
    "attention_maps": "run.library",
    "dense_features": "run.library",
    "evaluate": "run.library",
    "explore": "run.library",
    "load_attention": "config.registry",
    "load_backbone": "config.registry",
    "load_dataset": "config.registry",
    "load_guidance": "config.registry",
    "load_protocol": "config.registry",
    "results": "",
    "segment": "run.library",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sclip-lab")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sclip_lab' has no attribute '{name}'")
    if not _PUBLIC[name]:
        return importlib.import_module(f"sclip_lab.{name}")
    return getattr(importlib.import_module(f"sclip_lab.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
