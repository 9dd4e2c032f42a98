"""One photo, some class names, a label map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sclip_lab.attention.variant import Variant
from sclip_lab.data.decode import read_image
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import photos, views
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.scenes import scene

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide


@torch.inference_mode()
def segment(
    backbone: Backbone,
    image: np.ndarray | str | Path | Any,
    class_names: Sequence[str | Sequence[str]] | Vocabulary,
    attention: Variant,
    protocol: Protocol | None = None,
    guidance: Guide | None = None,
) -> np.ndarray:
    """Label every pixel of one photo.

    Args:
        backbone: from `load_backbone`.
        image: (height, width, 3) uint8 RGB, a PIL image, or a file.
        class_names: a name per class; several separated by commas, or a list, are synonyms.
        attention: from `load_attention`.
        protocol: how; SCLIP's default otherwise.
        guidance: a second network, for attention or readouts that look at one.

    Returns:
        (height, width) class ids: indices into ``class_names``, uint8 (int16 beyond 256 classes);
        of the photo's middle, if the protocol crops photos.

    Raises:
        LabError: an image that cannot be read, or no class names.
    """
    protocol = protocol or Protocol()
    if not isinstance(class_names, Vocabulary):
        split = [n.split(",") if isinstance(n, str) else list(n) for n in class_names]
        class_names = Vocabulary("given", tuple(tuple(n.strip() for n in names) for names in split))
    if isinstance(image, str | Path):
        image = read_image(image)
    elif not isinstance(image, np.ndarray):
        image = np.array(image.convert("RGB"))
    if protocol.centre_crop is not None:
        image = photos.centre(image, protocol)
    plan, network_input = photos.prepare(image, protocol, backbone)
    cut = views.see(plan.cut(network_input), protocol.views)
    text = embed_vocabulary(backbone, class_names, protocol.templates, truncate=protocol.truncate)
    words, auxiliary = protocol.auxiliary_vocabulary(), None
    if words is not None:
        auxiliary = embed_vocabulary(
            backbone, words, protocol.templates, truncate=protocol.truncate
        ).to(backbone.device)
    second = None
    if protocol.second_templates is not None:
        second = embed_vocabulary(
            backbone, class_names, protocol.second_templates, truncate=protocol.truncate
        )
    classes = torch.tensor(class_names.query_classes)
    readout = Readout(protocol, text.to(backbone.device), classes, auxiliary, second)
    attention = attention.given(readout.texts)
    around = scene(cut, [(plan, network_input)], [slice(0, len(cut))], backbone, guidance)
    rule = protocol.position_embedding
    [(_, encoded)] = encode(backbone, cut, [attention], rule, scene=around)
    logits = views.average(readout.patch_logits(encoded), protocol.views)
    plan = plan.on_grid((logits.shape[1], logits.shape[2]))
    laid_out = plan.lay_out(logits)
    mine = encoded.part(slice(plan.num_windows))
    return readout.predict(plan, laid_out, network_input, mine).cpu().numpy()
