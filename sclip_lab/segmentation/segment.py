"""Segment one photo: class names in, label map out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sclip_lab.attention.variant import Variant
from sclip_lab.core.values import check_count
from sclip_lab.data.decode import as_image
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import photos, pipeline
from sclip_lab.segmentation.protocol import Protocol

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
    batch_windows: int | None = None,
) -> np.ndarray:
    """Label every pixel of one photo.

    Args:
        image: (height, width, 3) uint8 RGB, a PIL image, or a file.
        class_names: one name per class; several, separated by commas or in a list, are synonyms.
        protocol: by default SCLIP's.
        guidance: a second network, for attention or readouts that read one.
        batch_windows: windows that go through the network at once; None: as many as memory holds.
            The labels do not depend on it.

    Returns:
        (height, width) indices into ``class_names``, uint8 (int16 beyond 256 classes); of the
        photo's middle, if the protocol crops photos.

    Raises:
        LabError: an image that cannot be read, or no class names.
    """
    protocol = protocol or Protocol()
    class_names, image = Vocabulary.typed(class_names), as_image(image)
    check_count("batch_windows", batch_windows)
    if protocol.centre_crop is not None:
        image = photos.centre(image, protocol)
    plan, pixels = photos.prepare(image, protocol, backbone)
    readout = pipeline.make_readout(backbone, class_names, protocol)
    attention = attention.given(readout.texts)
    most = batch_windows or pipeline.at_once(backbone, plan, 1, guidance)
    windows = pipeline.Windows([(plan, pixels)], protocol.views, backbone, guidance, most)
    encoder = pipeline.Encoder(backbone, protocol.position_embedding)
    collected = pipeline.Collected(windows)
    steps, logits, whole = readout.steps, [], None
    for _, chunk, encoded in pipeline.run(encoder, windows, [attention]):
        if steps.sees_photo or steps.reads_windows:
            whole = collected.add(0, chunk, encoded, "history" in steps.uses)
        if not steps.sees_photo:
            logits.append(readout.patch_logits(encoded))
        del encoded  # or it stays in memory while the next chunk is encoded
    if whole is not None and steps.sees_photo:
        logits.append(readout.patch_logits(whole))
    first_view = None
    if whole is not None and steps.reads_windows:
        first_view = whole.part(windows.first_view(0))
    del whole  # labels are decided at the photo's size, which takes memory as well
    return pipeline.label(readout, windows, 0, torch.cat(logits), first_view).cpu().numpy()
