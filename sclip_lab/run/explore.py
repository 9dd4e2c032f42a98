"""One photo with several variants as a page: `explore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclip_lab.core.errors import LabError, about
from sclip_lab.core.values import check, within
from sclip_lab.run.known_words import EMBEDDED, usual_dataset, warn_of_words

if TYPE_CHECKING:
    import numpy as np

    from sclip_lab.attention.variant import Variant
    from sclip_lab.network.backbone import Backbone
    from sclip_lab.report.explorer.document import Page
    from sclip_lab.segmentation.protocol import Protocol

ATTENTION = ("vanilla", "csa", "maskclip")


def explore(
    image: np.ndarray | str | Path | Any,
    names: Sequence[str] | str | None = None,
    attention: Sequence[str | Variant] | str | Variant = ATTENTION,
    backbone: Backbone | str = EMBEDDED,
    protocol: Protocol | str = "sclip",
    mask: np.ndarray | str | Path | None = None,
    title: str | None = None,
    max_patches: int = 28 * 28,
) -> Page:
    """A page that shows where every patch of a photo looks, with each variant.

    Args:
        image: a file, (height, width, 3) uint8 RGB, or a PIL image.
        names: a text per class, synonyms separated by commas; or one text with classes separated
            by semicolons. None: the words that patchwork_vit knows.
        attention: files of conf/attention, or variants.
        backbone: from `load_backbone`, or its name.
        protocol: a file of conf/protocol, or a protocol.
        mask: (height, width) class ids or a file of them, drawn as an outline.
        title: of the page; the file's name otherwise.
        max_patches: larger photos are made smaller until they have at most so many patches.

    Returns:
        a page; ``page.save("photo.html")`` writes it, and a notebook shows it by itself.

    Raises:
        LabError: a photo that cannot be read, an unknown name, or no classes.
    """
    from sclip_lab.attention.variant import Variant
    from sclip_lab.config.registry import variant_label
    from sclip_lab.data.decode import as_image, read_mask
    from sclip_lab.data.vocabulary import Vocabulary
    from sclip_lab.report.explorer.document import page
    from sclip_lab.report.explorer.maps import look
    from sclip_lab.run.library import as_backbone, as_protocol, as_variant

    check("max_patches", max_patches, int)
    within("max_patches", max_patches, 1)
    backbone = as_backbone(backbone)
    protocol = as_protocol(protocol, usual_dataset(backbone.name))
    if names is None:
        if backbone.name != EMBEDDED:
            raise LabError('name the classes to choose from, for example names="cat; grass,lawn"')
        vocabulary = Vocabulary.named("patchwork")
    else:
        if isinstance(names, str):
            names = [name for name in names.split(";") if name.strip()]
            if not names:
                raise LabError("names: a class each, for example 'cat; grass,lawn'")
        vocabulary = Vocabulary.typed(names)
        warn_of_words(backbone.name, vocabulary.queries)
    listed = [attention] if isinstance(attention, str | Variant) else attention
    variants = [as_variant(each, protocol) for each in listed]
    title = title or (Path(image).name if isinstance(image, str | Path) else "photo")
    subject = f"{title} with mask {mask}" if isinstance(mask, str | Path) else title
    image = as_image(image)
    if isinstance(mask, str | Path):
        mask = read_mask(mask)
    labelled = {variant_label(variant): variant for variant in variants}
    with about(subject):
        maps = look(backbone, image, labelled, vocabulary, protocol, mask, max_patches)
    return page(maps, title)
