"""Load variants, data sets, networks and protocols by the names of their yaml files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.attention.variant import PARTS, Variant, build, names_by
from sclip_lab.attention.variant import variant as variant
from sclip_lab.config.composition import PLACES, alone, composed
from sclip_lab.config.folders import conf_dir as conf_dir
from sclip_lab.config.folders import names
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import bind, locate, overridden
from sclip_lab.core.values import shown
from sclip_lab.data.base import Dataset
from sclip_lab.data.base import build as build_dataset
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.protocol import build as build_protocol

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone
    from sclip_lab.network.guidance import Guide


def load_group(
    group: str,
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    choices: Mapping[str, str] | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
) -> dict[str, Any]:
    """One yaml of a group, composed as on the command line and resolved.

    Args:
        group: for example ``attention``.
        name: the file's name without ``.yaml``.
        overrides: values to replace; mappings are merged.
        choices: choices of other groups, such as ``{"attention/prior": "gaussian"}``.
        dataset: the data set's name, for values that depend on it.
        protocol: the protocol's name, for values that depend on it.

    Raises:
        LabError: unknown name (did you mean), or a yaml that does not compose.
    """
    chosen = {group: name, **(choices or {})}
    for kind, choice in chosen.items():
        if choice not in names(kind):
            raise unknown(kind.rpartition("/")[2], choice, names(kind))
    # A variant refers to names alone, and its file by itself takes a fifth of the time.
    config = alone(group, name) if list(chosen) == ["attention"] else OmegaConf.create()
    if group not in config:  # other groups count too, or the file begins with "# @package"
        config = composed(*(f"{kind}={choice}" for kind, choice in chosen.items()))
        config.pretrained = None  # an argument of `load_backbone` instead
    with open_dict(config):
        if group != "dataset":
            config.dataset = {"name": dataset}
        if group != "protocol":
            OmegaConf.update(config, "protocol.name", protocol or "")
    try:
        node = OmegaConf.select(config, PLACES.get(group, group.replace("/", ".")))
        container = OmegaConf.to_container(node, resolve=True) if node is not None else {}
    except OmegaConfBaseException as error:
        raise LabError(f"{group} '{name}': {' '.join(str(error).split())}") from error
    if not isinstance(container, dict):
        raise LabError(f"{group} '{name}': its yaml holds {shown(container)}, not a mapping")
    return overridden({str(k): v for k, v in container.items()}, overrides or {})


def load_attention(
    name: str, *, protocol: str | None = None, dataset: str | None = None, **overrides: Any
) -> Variant:
    """A variant of ``conf/attention``.

    >>> load_attention("csa", temperature=0.5, residual=False).config["temperature"]
    0.5

    Args:
        name: a file of conf/attention, without ``.yaml``.
        protocol, dataset: names, for values that depend on them, such as ResCLIP's share.
        **overrides: values that replace the file's. ``prior``, ``mix`` and ``repair`` may also be
            the name of a file in conf/attention/prior, mix and repair.

    Raises:
        LabError: unknown name, key or value.
    """
    parts = _pop_names(overrides, PARTS)
    choices = {f"attention/{part}": choice for part, choice in parts.items()}
    config = load_group(
        "attention", name, overrides, choices=choices, dataset=dataset, protocol=protocol
    )
    return build(config, name)


names_by(partial(load_group, "attention"))


def load_dataset(name: str, **overrides: Any) -> Dataset:
    """A data set of ``conf/dataset``, for example ``load_dataset("coco_panoptic20", root=...)``.

    Raises:
        LabError: unknown name, or data that are not there.
    """
    return build_dataset(load_group("dataset", name, overrides))


def load_backbone(
    name: str | None = None, pretrained: str | None = None, **options: Any
) -> Backbone:
    """`sclip_lab.network.loading.load_backbone`, extended by the files of ``conf/backbone``.

    Args:
        name: an architecture of open_clip, or a file of conf/backbone such as "patchwork_vit".
        pretrained: open_clip's tag; None: the weights that the file names, else random ones.
        **options: arguments of that function. They replace the file's values.

    Raises:
        LabError: unknown name, or weights that do not fit.
    """
    from sclip_lab.network import loading  # the import takes seconds; a listing needs none

    if options.get("model") is not None:
        return loading.load_backbone(name, pretrained, **options)
    if name in names("backbone"):
        config = load_group("backbone", name)
        if "_target_" in config:
            load = backbone_loader(config.pop("_target_"))
            del config["usual"]
            return bind(load, config | options | {"pretrained": pretrained})()
        if not options.get("checkpoint") and options.get("state_dict") is None:
            options["checkpoint"] = config["checkpoint"]
        options.setdefault("architecture", config.get("architecture"))
    elif name and ":" not in name and not options.get("architecture"):
        choices = [*loading.architectures(), *names("backbone")]
        if name not in choices:
            raise unknown("backbone", name, choices)
    weights = (pretrained, options.get("checkpoint"), options.get("state_dict"))
    if weights == (None, None, None) and ":" not in (name or "") and "seed" not in options:
        warnings.warn(
            f"backbone {name}: neither pretrained= nor checkpoint= is given, so its weights are "
            "random; seed=0 says that this is meant",
            stacklevel=2,
        )
    return loading.load_backbone(name, pretrained, **options)


def backbone_loader(target: str | None) -> Callable[..., Backbone]:
    """The function under ``_target_`` in a file of conf/backbone; None: open_clip's loader."""
    from sclip_lab.network import loading

    return loading.load_backbone if target is None else locate(target, ("sclip_lab.network",))


def load_guidance(name: str, **options: Any) -> Guide:
    """`sclip_lab.network.guidance.load_guidance`, extended by the files of ``conf/guidance``.

    Args:
        name: a file of conf/guidance without ``.yaml``, or a name that `load_guidance` there knows.
        **options: arguments of that function. They replace the file's values.

    Raises:
        LabError: unknown name, or weights that cannot be had or do not fit.
    """
    from sclip_lab.network import guidance  # the import takes seconds; a listing needs none

    if name == "none":
        raise LabError("guidance none is no network; leave guidance away")
    if name in names("guidance"):
        return guidance.load_guidance(**load_group("guidance", name, options))
    return guidance.load_guidance(name, **options)


def load_protocol(name: str, dataset: str | None = None, **overrides: Any) -> Protocol:
    """A protocol of ``conf/protocol`` with its values for one data set.

    >>> load_protocol("sclip", "voc21", short_side=448).logit_scale
    65.0

    Args:
        name: a file of conf/protocol, without ``.yaml``.
        dataset: the data set's name. With None, or a data set that the protocol does not mention,
            the usual values count.
        **overrides: values that replace the file's. ``readout`` and ``refinement`` may also be the
            name of a file in conf/readout and conf/refinement.

    Raises:
        LabError: unknown name, field or value.
    """
    choices = _pop_names(overrides, PLACES)
    return build_protocol(load_group("protocol", name, overrides, choices=choices, dataset=dataset))


def _pop_names(overrides: dict[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Remove and return the overrides that are the name of a file."""
    return {key: overrides.pop(key) for key in keys if isinstance(overrides.get(key), str)}


def variant_label(variant: Variant, protocol: str | None = None, dataset: str | None = None) -> str:
    """A variant's name in tables: its file's name, and the values that differ from the file's.

    The file's values are taken for ``protocol`` and ``dataset``.

    >>> variant_label(load_attention("csa", temperature=2.0))
    'csa(temperature=2.0)'
    """
    if variant.name not in names("attention"):
        return variant.name
    usual = load_group("attention", variant.name, protocol=protocol, dataset=dataset)
    # A value that the file leaves to the user ("???") always differs.
    open_keys = [key for key, value in usual.items() if value == "???"]
    filled = {**usual, **{key: variant.config.get(key) for key in open_keys}}
    usual = {**build(filled, variant.name).config, **dict.fromkeys(open_keys)}
    changed = list(_differences(usual, variant.config))
    return f"{variant.name}({', '.join(changed)})" if changed else variant.name


def _differences(
    usual: Mapping[str, Any], config: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """The values of ``config`` that are not the usual ones, as text for a label."""
    for key, value in config.items():
        before = usual.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and "_target_" in value:
            parameters = ", ".join(f"{k}={v}" for k, v in value.items() if k != "_target_")
            yield f"{prefix}{key}={str(value['_target_']).rpartition('.')[2]}[{parameters}]"
        elif value != before:
            yield f"{prefix}{key}={value}"
