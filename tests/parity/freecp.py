"""FreeCP on four bases."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

import sclip_lab as lab
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.readouts.cosine import unit
from sclip_lab.segmentation.readouts.freecp import purified
from tests.parity.compare import PROBABILITIES, Compared, close, comparison, unequal
from tests.parity.vector_set import Arrays, VectorSet

REFINED = 2e-4
# The official code drops the residual of its bases and keeps the MLP, but for ClearCLIP's.
KEEP = {"residual": False, "mlp": True}
BASES = {
    "freecp_sclip": ("csa", KEEP),
    "freecp_clearclip": ("clearclip", {}),
    "freecp_maskclip": ("maskclip", KEEP),
    "freecp_vanilla": ("vanilla", KEEP),
}


@comparison(*BASES, inputs="text|text_for_crops|num_background|rp|ap")
@torch.inference_mode()
def freecp(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    backbone = toy.network(position_embedding="bicubic_offset")
    attention, changed = BASES[name]
    variants = [lab.load_attention(attention, **changed), lab.load_attention("vanilla")]
    text, crops = (torch.from_numpy(arrays[key]) for key in ("text", "text_for_crops"))
    background = int(arrays["num_background"])
    scale = float(backbone.model.logit_scale.exp())
    for one in arrays.inputs("prob"):
        image = toy.inputs[one]
        features = dict(encode(backbone, image, variants))
        key = f"{one}__prob"
        cosines = unit(features[0].patches[0].float()) @ text.T
        probability = torch.softmax(scale * cosines, dim=-1).permute(2, 0, 1)
        yield close(key, probability, arrays[key], PROBABILITIES)
        limits = (background, float(arrays["rp"]), float(arrays["ap"]))
        maps, refined, left, places = purified(features[0], text, crops, *limits)
        key = f"{one}__refined"
        whole = F.pad(refined, (0, 0, 0, 0, background, 0))  # background stays 0
        yield close(key, whole, arrays[key], REFINED)
        key = f"{one}__kept_after_redundancy"
        yield unequal(key, torch.tensor(left), arrays[key])
        yield unequal(f"{one}__kept", torch.tensor(places), arrays[f"{one}__kept"])
        key = f"{one}__logits_s16"
        whole = F.interpolate(maps.permute(2, 0, 1)[None], image.shape[-2:], mode="bilinear")[0]
        yield close(key, whole[:, ::16, ::16], arrays[key], PROBABILITIES)
        key = f"{one}__cls_logits"
        yield close(key, scale * unit(features[1].class_embedding[0]) @ text.T, arrays[key], 1e-4)
