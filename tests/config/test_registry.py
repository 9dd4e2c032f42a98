"""The configuration directory as a registry: overrides, nested parts, and what is refused."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sclip_lab.config.folders import names
from sclip_lab.config.registry import conf_dir, load_attention, load_group
from sclip_lab.core.errors import LabError


def test_names_leave_out_shared_parts() -> None:
    assert {"vanilla", "csa", "csa_learned", "maskclip"} <= set(names("attention"))
    assert "_variant" not in names("attention")
    assert names("attention/prior") == sorted(names("attention/prior"))
    assert names("no_such_group") == []


def test_defaults_are_composed() -> None:
    config = load_group("attention", "local")
    assert config["layers"] == [-1]
    assert config["prior"] == {"_target_": "sclip_lab.attention.prior.window", "radius": 1}


def test_mappings_merge_and_values_replace() -> None:
    config = load_group("attention", "local", {"prior": {"radius": 3}, "layers": [0, 1]})
    assert config["prior"] == {"_target_": "sclip_lab.attention.prior.window", "radius": 3}
    assert config["layers"] == [0, 1]
    assert load_group("attention", "local")["prior"]["radius"] == 1


def test_load_attention_overrides() -> None:
    attention = load_attention("csa", temperature=0.5, residual=False, projections=["key"])
    assert attention.name == "csa"
    assert attention.config["temperature"] == 0.5
    assert attention.config["residual"] is False
    assert attention.config["projections"] == ["key"]
    assert attention.config["mlp"] is True
    same = load_attention("csa_k", temperature=0.5, residual=False)
    assert attention.key == same.key


def test_parts_by_name() -> None:
    attention = load_attention("csa", prior="gaussian", mix="middle")
    assert attention.config["prior"] == load_group("attention/prior", "gaussian")
    assert attention.config["mix"]["share"] == 0.3
    wide = load_attention("csa", prior={**load_group("attention/prior", "gaussian"), "sigma": 9.0})
    assert wide.key != load_attention("csa", prior="gaussian").key
    assert load_attention("local", prior=None).key == load_attention("vanilla").key


def test_unknown_names() -> None:
    with pytest.raises(LabError, match="unknown attention 'vanila'; did you mean vanilla"):
        load_attention("vanila")
    with pytest.raises(LabError, match="unknown prior 'gausian'; did you mean gaussian"):
        load_attention("csa", prior="gausian")
    with pytest.raises(LabError, match="attention 'csa': unknown parameter 'temprature'"):
        load_attention("csa", temprature=1.0)
    with pytest.raises(LabError, match="unknown attention '_variant'"):
        load_group("attention", "_variant")


def test_works_within_a_hydra_application() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert load_attention("csa").name == "csa"
        with pytest.raises(LabError):
            load_attention("nothing")
        # Hydra goes on where it was.
        assert compose(overrides=["+attention=csa_k"]).attention.projections == ["key"]
    assert not GlobalHydra.instance().is_initialized()
