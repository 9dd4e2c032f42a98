"""One truth: what a command line composes, a Python call composes too, and typed values win."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import sclip_lab as lab
from sclip_lab.config.composition import composed, on_dataset
from sclip_lab.config.folders import conf_dir, names
from sclip_lab.core.errors import LabError
from sclip_lab.run.job import make_protocol
from sclip_lab.segmentation.protocol import build

# Data sets of SegEarth-OV's configs, which come with no yaml here.
AERIAL = {
    *("chn6_cug", "deepglobe_road", "isaid", "inria", "loveda", "massachusetts_road", "xbd"),
    *("openearthmap", "potsdam", "spacenet_road", "uavid", "udd5", "vaihingen", "vdd", "wbs_si"),
    *("whu_aerial", "whu_sat_ii"),
}
PROTOCOLS, DATASETS = names("protocol"), names("dataset")
# As the protocols were before their values moved into one expression each; regenerate with
# `python -m tests.app.test_composition` when a preset is changed on purpose.
VALUES = Path(__file__).with_name("protocol_values.json")


def by_hydra(*overrides: str) -> DictConfig:
    """The public way: what ``--cfg job`` would print."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def plain(protocol: Any) -> dict[str, Any]:
    return json.loads(json.dumps(protocol.config))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_on_every_data_set_is_the_same_both_ways(name: str) -> None:
    recorded = json.loads(VALUES.read_text(encoding="utf-8"))
    config = by_hydra(f"protocol={name}")
    usual = recorded[name]["usual"]
    for dataset in DATASETS:
        config.dataset.name = dataset
        loaded = lab.load_protocol(name, dataset)
        assert loaded.key == make_protocol(config).key
        assert plain(loaded) == {**usual, **recorded[name].get(dataset, {})}, dataset


@pytest.mark.parametrize(
    ("name", "dataset"), list(zip(PROTOCOLS[::3], cycle(DATASETS[-4:]), strict=False))
)
def test_a_chosen_data_set_counts_as_its_name_does(name: str, dataset: str) -> None:
    config = by_hydra(f"protocol={name}", f"dataset={dataset}")
    assert make_protocol(config).key == lab.load_protocol(name, dataset).key
    # What --cfg job --resolve prints is what runs, defaults of its functions written out.
    printed = OmegaConf.to_container(config.protocol, resolve=True)
    assert isinstance(printed, dict)
    assert build({str(k): v for k, v in printed.items()}).key == make_protocol(config).key


@pytest.mark.parametrize("dataset", ["context59", "voc21"])
def test_one_value_of_a_protocols_own_readout(dataset: str) -> None:
    usual = lab.load_protocol("resclip", dataset).readout
    assert usual is not None
    assert usual["_target_"].endswith(".resclip")
    typed = by_hydra("protocol=resclip", f"dataset={dataset}", "protocol.readout.share=0.9")
    assert make_protocol(typed).readout == {**usual, "share": 0.9}
    assert lab.load_protocol("resclip", dataset, readout={"share": 0.9}).readout == {
        **usual, "share": 0.9
    }  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_typed_value_holds_on_every_data_set(dataset: str) -> None:
    typed = by_hydra("protocol=sclip", f"dataset={dataset}", "protocol.short_side=448")
    assert make_protocol(typed).short_side == 448
    assert lab.load_protocol("sclip", dataset, short_side=448).short_side == 448


def test_a_value_of_a_preset_holds_on_every_data_set(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    preset = "# @package _global_\nprotocol: {short_side: 448}\n"
    (tmp_path / "experiment/large.yaml").write_text(preset)
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    config = by_hydra(searched, "experiment=large", "dataset=cityscapes")
    assert make_protocol(config).short_side == 448


@pytest.mark.parametrize(
    ("protocol", "group", "choice"),
    [
        ("resclip", "readout", "cosine"),
        ("resclip", "readout", "surgery"),
        ("segearth", "readout", "cosine"),
        ("cliptrase", "refinement", "none"),
        ("cliptrase", "readout", "cosine"),
        ("itaclip", "refinement", "closing"),
    ],
)
def test_another_choice_takes_a_protocols_own_away(protocol: str, group: str, choice: str) -> None:
    config = by_hydra(f"protocol={protocol}", "dataset=voc20", f"{group}={choice}")
    loaded = make_protocol(config)
    alone = composed(f"{group}={choice}", "protocol=unified", "dataset=voc20")
    assert getattr(loaded, group) == getattr(make_protocol(alone), group)
    assert loaded.key == lab.load_protocol(protocol, "voc20", **{group: choice}).key
    assert loaded.key != lab.load_protocol(protocol, "voc20").key


def test_equal_configurations_have_equal_keys_and_others_do_not() -> None:
    refined = by_hydra("protocol=cliptrase")
    plainly = by_hydra("protocol=cliptrase", "refinement=none")
    assert refined.protocol != plainly.protocol
    assert make_protocol(refined).key != make_protocol(plainly).key
    again = by_hydra("protocol=cliptrase", "refinement=cliptrase")
    assert again.protocol == refined.protocol
    assert make_protocol(again).key == make_protocol(refined).key


@pytest.mark.parametrize("variant", ["csa", "naclip_nonly", "sfp"])
@pytest.mark.parametrize(
    ("part", "choice"), [("prior", "gaussian"), ("mix", "middle"), ("repair", "norm")]
)
def test_one_spelling_for_the_parts_of_every_variant(variant: str, part: str, choice: str) -> None:
    from sclip_lab.attention.variant import build
    from sclip_lab.config.composition import plain_config

    config = by_hydra(f"attention={variant}", f"attention/{part}={choice}")
    typed = plain_config(config.attention)
    if variant == "sfp" and part == "mix":  # a block edit mixes no maps
        with pytest.raises(LabError, match="mix cannot be set"):
            build(typed, variant)
        return
    assert build(typed, variant).key == lab.load_attention(variant, **{part: choice}).key
    assert typed[part] == plain_config(composed(f"attention/{part}={choice}").attention)[part]
    without = plain_config(by_hydra(f"attention={variant}", f"attention/{part}=none").attention)
    assert without[part] is None


def test_on_dataset() -> None:
    config = OmegaConf.create(
        {"dataset": {"name": "a"}, "x": "${on_dataset:1,{a:null,b:[2]}}", "y": "${on_dataset:1,2}"}
    )
    assert config.x is None
    config.dataset.name = "b"
    assert config.x == [2]
    config.dataset.name = "c"
    assert config.x == 1
    assert on_dataset(1, {"a": 2}, _root_=OmegaConf.create({})) == 1
    with pytest.raises(Exception, match="must map data sets to values"):
        _ = config.y


@pytest.mark.parametrize(
    ("protocol", "dataset", "share"),
    [("resclip", "cityscapes", 0.2), ("resclip", "voc20", 0.6), ("unified", "cityscapes", 0.3)],
)
def test_a_variants_value_under_its_own_protocol(protocol: str, dataset: str, share: float) -> None:
    from sclip_lab.config.composition import plain_config
    from sclip_lab.config.registry import variant_label

    for name in ("resclip", "resclip_sclip", "resclip_clearclip"):
        config = by_hydra(f"protocol={protocol}", f"attention={name}", f"dataset={dataset}")
        assert plain_config(config.attention)["mix"]["share"] == share
        loaded = lab.load_attention(name, protocol=protocol, dataset=dataset)
        assert loaded.config["mix"]["share"] == share
        assert variant_label(loaded, protocol, dataset) == name
    typed = by_hydra(f"protocol={protocol}", "attention=resclip", "attention.mix.share=0.9")
    assert plain_config(typed.attention)["mix"]["share"] == 0.9


def test_on_protocol_wants_values_on_data_sets() -> None:
    config = OmegaConf.create({"x": "${on_protocol:1,{a:2}}", "protocol": {"name": "a"}})
    with pytest.raises(Exception, match="must map protocols to values on data sets"):
        _ = config.x


def test_expressions_name_known_data_sets() -> None:
    import re

    for path in conf_dir().rglob("*.yaml"):
        text = "\n".join(line.partition("# ")[0] for line in path.read_text().splitlines())
        for table in re.findall(r"\$\{on_dataset:[^{]*\{([^ ]*)\}\}", text):
            outer = re.sub(r"\{[^}]*\}", "", re.sub(r"\[[^\]]*\]", "", table))
            keys = {item.partition(":")[0].strip() for item in outer.split(",")}
            assert keys <= set(DATASETS) | (AERIAL if "segearth" in path.name else set()), path
        for table in re.findall(r"\$\{on_protocol:[^{]*\{(\w+):\{([^}]*)\}\}\}", text):
            assert table[0] in PROTOCOLS, path
            assert {item.partition(":")[0] for item in table[1].split(",")} <= set(DATASETS), path


def test_a_readout_outside_the_protocol_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readout").mkdir()
    (tmp_path / "readout/mine.yaml").write_text("_target_: my.function\n")
    config = by_hydra(f"hydra.searchpath=[file://{tmp_path}]", "readout=mine")
    with pytest.raises(LabError, match=r"# @package protocol\.readout"):
        make_protocol(config)


def record() -> None:
    """Write ``VALUES``: each protocol's usual values, and those that differ on a data set."""
    settings: dict[str, dict[str, Any]] = {}
    for name in PROTOCOLS:
        usual = plain(lab.load_protocol(name))
        settings[name] = {"usual": usual}
        for dataset in DATASETS:
            actual = plain(lab.load_protocol(name, dataset))
            differing = {key: actual[key] for key in actual if actual[key] != usual[key]}
            if differing:
                settings[name][dataset] = differing
    VALUES.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()


def test_a_choice_with_its_suffix_has_the_same_label() -> None:
    from sclip_lab.run.job import make_spec

    labels = [make_spec(composed(f"attention={name}")).label for name in ("csa", "csa.yaml")]
    assert labels == ["csa", "csa"]
