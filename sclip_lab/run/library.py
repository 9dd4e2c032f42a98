"""The library's calls, which also take names in place of objects, and images of any kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import (
    load_attention,
    load_backbone,
    load_dataset,
    load_guidance,
    load_protocol,
    variant_label,
)
from sclip_lab.core.errors import LabError, about, unknown
from sclip_lab.core.values import check, within
from sclip_lab.data.base import Dataset
from sclip_lab.data.decode import as_image, read_mask
from sclip_lab.data.folder import PHOTO_SUFFIXES
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation import loop, spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.run.known_words import EMBEDDED, usual_dataset, warn_of_words
from sclip_lab.segmentation import dense_features as functions
from sclip_lab.segmentation import segment as one_photo
from sclip_lab.segmentation.dense_features import AttentionMaps
from sclip_lab.segmentation.protocol import Protocol

if TYPE_CHECKING:
    import pandas as pd

    from sclip_lab.network.guidance import Guide
    from sclip_lab.report.explorer.document import Page

Labels = np.ndarray
EXPLORED = ("vanilla", "csa", "maskclip")  # variants on the page of `explore`


def segment(
    backbone: Backbone | str,
    image: Any,
    class_names: Sequence[str | Sequence[str]] | Vocabulary,
    attention: Variant | str = "csa",
    protocol: Protocol | str = "sclip",
    guidance: Guide | str | None = None,
    batch_windows: int | None = None,
) -> Any:
    """Label every pixel of a photo, of a list of photos, or of all photos in a folder.

    Args:
        backbone: from `load_backbone`, or a name of conf/backbone.
        image: (height, width, 3) uint8 RGB, a PIL image, or a file; a list of these; or a folder.
        class_names: a name per class; several separated by commas, or a list, are synonyms. Or the
            name of a vocabulary, such as "voc21", or its file.
        attention: from `load_attention`, or a name of conf/attention.
        protocol: from `load_protocol`, or a name of conf/protocol. On the embedded network a name
            stands for the protocol's values for patchwork.
        guidance: a second network, for attention or readouts that look at one; or its name.
        batch_windows: windows of a photo that go through the network at once; None: as many as
            memory has room for. The labels do not depend on it.

    Returns:
        (height, width) class ids, indices into ``class_names``; a list of them for a list, and
        {file name: ids} for a folder.

    Raises:
        LabError: an image that cannot be read or used, an unknown name, or no class names.
    """
    network = as_backbone(backbone)
    steps = as_protocol(protocol, usual_dataset(network.name))
    variant, vocabulary = as_variant(attention, steps), Vocabulary.typed(class_names)
    warn_of_words(network.name, vocabulary.queries)
    guide = as_guide(guidance)

    def labels(photo: Any) -> Labels:
        return one_photo.segment(network, photo, vocabulary, variant, steps, guide, batch_windows)

    if isinstance(image, list | tuple):
        return [labels(photo) for photo in image]
    if isinstance(image, str | Path) and Path(image).is_dir():
        labelled = {}
        for file in photos_of(image):
            with about(file):
                labelled[file.name] = labels(file)
        return labelled
    return labels(image)


def evaluate(
    specs: Iterable[spec.Spec | Variant | str] | spec.Spec | Variant | str,
    store: Store | str | Path = "results/store",
    *,
    backbone: Backbone | str = EMBEDDED,
    protocol: Protocol | str = "sclip",
    dataset: Dataset | str = "patchwork",
    **options: Any,
) -> pd.DataFrame:
    """Call `sclip_lab.evaluation.loop.evaluate`, also with variants and their names.

    >>> df = evaluate(["vanilla", "csa"], dataset="voc21")  # doctest: +SKIP

    Args:
        specs: cells, or variants, or names of conf/attention; one or several.
        backbone, protocol, dataset: objects or names, for entries of ``specs`` that are no cells.
        store, **options: as in that function.

    Raises:
        LabError: as in that function, or an unknown name.
    """
    single = isinstance(specs, str | Variant | spec.Spec) or not isinstance(specs, Iterable)
    listed: list[Any] = [specs] if single else list(specs)  # type: ignore[arg-type]
    cells: list[spec.Spec] = []
    for each in listed:
        if not isinstance(each, spec.Spec):  # a network or a data set by name is loaded once
            backbone, dataset = as_backbone(backbone), as_dataset(dataset)
            each = Spec(each, backbone, protocol, dataset)
        cells.append(each)
    by_words = {(cell.backbone.name, cell.vocabulary.key): cell for cell in cells}
    for cell in by_words.values():
        warn_of_words(cell.backbone.name, cell.vocabulary.queries)
    choices = list(inspect.signature(loop.evaluate).parameters)[2:]
    for option in options:
        if option not in choices:
            raise unknown("option", option, choices)
    return loop.evaluate(cells, store, **options)


def explore(
    image: np.ndarray | str | Path | Any,
    names: Sequence[str] | str | None = None,
    attention: Sequence[str | Variant] | str | Variant = EXPLORED,
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
    from sclip_lab.report.explorer.document import page  # matplotlib: slow to import
    from sclip_lab.report.explorer.maps import look

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


def dense_features(
    backbone: Backbone | str, images: Any, attention: Variant | str, *args: Any, **options: Any
) -> Tensor:
    """Call `sclip_lab.segmentation.dense_features.dense_features` with more kinds of input.

    Args:
        backbone: from `load_backbone`, or its name.
        images: as in that function; or one image: a file, a PIL image, or (height, width, 3) uint8
            RGB; or a list of images of one size.
        attention: a variant, or the name of a file of conf/attention.
        *args, **options: as in that function.

    Returns:
        (batch, grid_h, grid_w, embed_dim) float32.

    Raises:
        LabError: as in that function, an image that cannot be read, or an unknown name.
    """
    network, variant = as_backbone(backbone), as_variant(attention)
    if "guidance" in options:
        options["guidance"] = as_guide(options["guidance"])
    return functions.dense_features(network, _batch(images), variant, *args, **options)


def attention_maps(
    backbone: Backbone | str, image: Any, attention: Variant | str, *args: Any, **options: Any
) -> AttentionMaps:
    """Call `sclip_lab.segmentation.dense_features.attention_maps`, with input as of
    `dense_features`.

    Returns:
        ``weights`` (heads, queries, keys) float32, and ``grid`` (grid_h, grid_w).

    Raises:
        LabError: as in that function, an image that cannot be read, or an unknown name.
    """
    network, variant = as_backbone(backbone), as_variant(attention)
    if "guidance" in options:
        options["guidance"] = as_guide(options["guidance"])
    return functions.attention_maps(network, _batch(image), variant, *args, **options)


def _batch(images: Any) -> Tensor:
    if isinstance(images, str | Path | Image.Image):
        images = as_image(images)
    if isinstance(images, list | tuple):
        batches = [_batch(each) for each in images]
        kinds = {(each.shape[1:], each.dtype) for each in batches}
        if len(kinds) != 1 or batches[0].ndim == 0:
            raise LabError("a list of images must hold images of one size and type")
        return torch.cat(batches)
    if isinstance(images, np.ndarray):
        images = np.ascontiguousarray(images)  # image[..., ::-1], of OpenCV's BGR
    try:
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise LabError(
            f"images are a {type(images).__name__}; give files, PIL images, arrays or tensors"
        ) from None
    if images.ndim == 3 and images.shape[0] != 3 and images.shape[-1] == 3:
        images = images.permute(2, 0, 1)
    return images[None] if images.ndim == 3 else images


class Spec(spec.Spec):
    """A `sclip_lab.evaluation.spec.Spec` whose parts may be names.

    >>> cell = Spec("csa", dataset="voc21", backbone=backbone)  # doctest: +SKIP

    A name of a protocol stands for its values for the data set. A name of a variant stands for its
    values for data set and protocol.

    Raises:
        LabError: as in that class, an unknown name, or an object of another kind.
    """

    def __init__(
        self,
        attention: Variant | str,
        backbone: Backbone | str = EMBEDDED,
        protocol: Protocol | str = "sclip",
        dataset: Dataset | str = "patchwork",
        label: str = "",
        guidance: Guide | str | None = None,
    ) -> None:
        data = as_dataset(dataset)
        steps = as_protocol(protocol, data.name)
        variant = as_variant(attention, steps, data.name)
        if isinstance(attention, str) and not label:
            label = variant_label(variant, steps.name, data.name)
        guide = as_guide(guidance)
        super().__init__(variant, as_backbone(backbone), steps, data, label, guide)


def as_variant(
    attention: Any, protocol: Protocol | None = None, dataset: str | None = None
) -> Variant:
    """Return a variant; from a name, with its values under a protocol on a data set."""
    if isinstance(attention, str):
        name = None if protocol is None else protocol.name
        return load_attention(attention, protocol=name, dataset=dataset)
    return _checked("attention", attention, Variant, "load_attention")


def as_backbone(backbone: Any) -> Backbone:
    """Return a network, also from its name."""
    if isinstance(backbone, str):
        return load_backbone(backbone)
    return _checked("backbone", backbone, Backbone, "load_backbone")


def as_protocol(protocol: Any, dataset: str | None = None) -> Protocol:
    """Return a protocol; from a name, with its values for a data set."""
    if isinstance(protocol, str):
        return load_protocol(protocol, dataset)
    return _checked("protocol", protocol, Protocol, "load_protocol")


def as_guide(guidance: Any) -> Guide | None:
    """Return a second network, also from its name; None if there is none."""
    if isinstance(guidance, str):
        return load_guidance(guidance)
    if guidance is None:
        return None
    from sclip_lab.network.guidance import Guide  # timm: slow to import

    return _checked("guidance", guidance, Guide, "load_guidance")


def as_dataset(dataset: Any) -> Dataset:
    """Return a data set, also from its name. An object with a vocabulary is taken as it is."""
    if isinstance(dataset, str):
        return load_dataset(dataset)
    if not hasattr(dataset, "vocabulary"):
        _checked("dataset", dataset, Dataset, "load_dataset")
    return dataset


def _checked(kind: str, value: Any, expected: type[Any], load: str) -> Any:
    if not isinstance(value, expected):
        raise LabError(
            f"{kind} is a {type(value).__name__}: give a name, or what lab.{load} returns"
        )
    return value


def photos_of(folder: str | Path) -> list[Path]:
    """List the photos in a folder by name."""
    files = [f for f in sorted(Path(folder).iterdir()) if f.suffix.lower() in PHOTO_SUFFIXES]
    if not files:
        raise LabError(f"{folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)})")
    return files
