"""The configuration directory is the registry: names of yaml files to objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.app.conf import PACKAGE, conf_dir, names
from sclip_lab.attention.variant import Variant, build
from sclip_lab.call import overridden
from sclip_lab.data.base import Dataset
from sclip_lab.data.base import build as build_dataset
from sclip_lab.errors import LabError, unknown
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.protocol import build as build_protocol

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone

NESTED = ("prior", "mix", "repair")

# Files that come with the package, wherever it is installed: ${package:assets/...}
OmegaConf.register_new_resolver("package", lambda path: str(PACKAGE / path), replace=True)


def load_group(
    group: str,
    name: str,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One yaml of a group, defaults composed, overridden and resolved.

    Args:
        group: for example ``attention``.
        name: a file's stem in it.
        overrides: values to replace; mappings are merged.

    Raises:
        LabError: unknown name (did you mean), or a yaml that does not compose.
    """
    if name not in names(group):
        raise unknown(group, name, names(group))
    # Within a Hydra application Hydra is in use already, and would refuse a second one.
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose(overrides=[f"+{group}={name}", "+paths=default"])
        usual: dict[str, Any] = {"pretrained": None, "checkpoint": None, "seed": 0}
        usual |= {"precision": "fp32", "device": "auto"}  # top-level keys that values refer to
        context = {**usual, **OmegaConf.to_container(config)}  # type: ignore[dict-item]
        container = OmegaConf.to_container(OmegaConf.create(context), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise LabError(f"{group} '{name}': {error}") from error
    finally:
        GlobalHydra.instance().hydra = running
    assert isinstance(container, dict)
    return overridden(container[group], overrides or {})


def load_attention(name: str, **overrides: Any) -> Variant:
    """A variant of ``conf/attention``.

    >>> load_attention("csa", temperature=0.5, residual=False).config["temperature"]
    0.5

    Args:
        name: a file of conf/attention, without its ending.
        **overrides: its keys with other values. ``prior``, ``mix`` and ``repair`` also take the
            name of a file in conf/attention/prior, mix and repair.

    Raises:
        LabError: unknown name, key or value.
    """
    for key in NESTED:
        part = overrides.get(key)
        if isinstance(part, str):
            overrides[key] = load_part(key, part)
    return build(load_group("attention", name, overrides), name)


def load_dataset(name: str, **overrides: Any) -> Dataset:
    """A data set of ``conf/dataset``, for example ``load_dataset("coco_panoptic20", root=...)``.

    Raises:
        LabError: unknown name, or data that are not there.
    """
    return build_dataset(load_group("dataset", name, overrides))


def load_backbone(
    name: str | None = None, pretrained: str | None = None, **options: Any
) -> Backbone:
    """`sclip_lab.network.loading.load_backbone`, which also knows backbones whose weights a
    file of ``conf/backbone`` names, such as ``load_backbone("patchwork_vit")``.

    Args:
        name: of open_clip's architectures, or of such a file.
        pretrained: open_clip's tag; None: random weights, or the file's.
        **options: as there. Those given replace the file's.

    Raises:
        LabError: unknown name, or weights that do not fit.
    """
    from sclip_lab.network import loading  # torch and open_clip: too slow to load for a listing

    if name in names("backbone"):
        own = load_group("backbone", name)
        if not options.get("checkpoint") and options.get("state_dict") is None:
            options["checkpoint"] = own["checkpoint"]
        options.setdefault("architecture", own.get("architecture"))
    elif name and ":" not in name and not options.get("architecture"):
        known = [*loading.architectures(), *names("backbone")]
        if name not in known:
            raise unknown("backbone", name, known)
    return loading.load_backbone(name, pretrained, **options)


def load_protocol(name: str, dataset: str | None = None, **overrides: Any) -> Protocol:
    """A protocol of ``conf/protocol`` with its values for one data set.

    Raises:
        LabError: unknown name, field or value.
    """
    given = load_group("protocol", name)
    per_dataset = (given.pop("per_dataset", None) or {}).get(dataset, {})
    given.update(per_dataset | overrides)
    return build_protocol(given, dataset)


def load_part(kind: str, name: str) -> dict[str, Any]:
    """A file of conf/attention/prior, mix or repair."""
    known = names(f"attention/{kind}")
    if name not in known:
        raise unknown(kind, name, known)
    loaded = OmegaConf.load(conf_dir() / "attention" / kind / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return OmegaConf.to_container(loaded)  # type: ignore[return-value]


def variant_label(variant: Variant) -> str:
    """What a table calls a variant: its file's name, and the values that differ from the file.

    >>> variant_label(load_attention("csa", temperature=2.0))
    'csa(temperature=2.0)'
    """
    if variant.name not in names("attention"):
        return variant.name
    changed = _differences(load_group("attention", variant.name), variant.config)
    return f"{variant.name}({', '.join(changed)})" if changed else variant.name


def _differences(usual: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in given.items():
        before = usual.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found += _differences(before, value, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and "_target_" in value:
            own = ", ".join(f"{k}={v}" for k, v in value.items() if k != "_target_")
            found.append(f"{prefix}{key}={value['_target_'].rpartition('.')[2]}[{own}]")
        elif value != before:
            found.append(f"{prefix}{key}={value}")
    return found
