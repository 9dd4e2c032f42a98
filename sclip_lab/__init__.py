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
    from sclip_lab.config import load_attention as load_attention
    from sclip_lab.config import load_backbone as load_backbone
    from sclip_lab.config import load_dataset as load_dataset
    from sclip_lab.config import load_protocol as load_protocol
    from sclip_lab.errors import LabError as LabError
    from sclip_lab.evaluation import evaluate as evaluate
    from sclip_lab.features import dense_features as dense_features
    from sclip_lab.protocol import Protocol as Protocol
    from sclip_lab.segmentation import segment as segment
    from sclip_lab.spec import Spec as Spec

_PUBLIC = {
    "LabError": "errors",
    "Protocol": "protocol",
    "Spec": "spec",
    "dense_features": "features",
    "evaluate": "evaluation",
    "load_attention": "config",
    "load_backbone": "config",
    "load_dataset": "config",
    "load_protocol": "config",
    "results": "",
    "segment": "segmentation",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sclip_lab' has no attribute '{name}'")
    if not _PUBLIC[name]:
        return importlib.import_module(f"sclip_lab.{name}")
    return getattr(importlib.import_module(f"sclip_lab.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
