"""What a yaml may name: a closed list of modules; no other is imported, nothing else is called."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sclip_lab.attention.variant import build as build_variant
from sclip_lab.config.folders import conf_dir
from sclip_lab.core import functions
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import (
    allow,
    bind,
    bind_config,
    block_edit,
    kind_of,
    locate,
    mix_function,
    weights_function,
)
from sclip_lab.data.base import build as build_dataset
from sclip_lab.data.folder import Folder
from sclip_lab.segmentation.protocol import Protocol


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that leaves a file behind when it is imported."""
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\n"
        "from os import system\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n"
        "def weights(ctx, heat=2.0):\n    return ctx.scores()\n"
        "def _private(ctx): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(functions, "_allowed", set())
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return "stranger"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.exec",
        "stranger.weights",
        "sclip_lab.data.prepare.place",
        "sclip_lab.attention.variant.digest",  # defined elsewhere
        "sclip_lab.attention.variant.Path",
        "sclip_lab.attention.variant.log",
        "sclip_lab.attention.variant._build",
        "sclip_lab.attention.variant.__doc__",
        "sclip_lab.core.functions.importlib",
        "sclip_lab.attention.repair.torch.load",
        "sclip_lab_evil.x",
        "sclip_lab.attentions.x",
        "sclip_lab.attention..x",
        "sclip_lab.attention.vanilla.vanilla\n",
        " os.system",
        "system",
        "",
        None,
        3,
        ["os.system"],
        {"a": 1},
    ],
    ids=repr,
)
def test_refused(target: object, module: str, tmp_path: Path) -> None:
    with pytest.raises(LabError):
        locate(target)  # type: ignore[arg-type]
    with pytest.raises(LabError):
        build_variant({"_target_": target})
    with pytest.raises(LabError):
        bind_config({"_target_": target, "command": "true"}, weights_function)
    with pytest.raises(LabError):
        build_dataset({"_target_": target, "command": "true"})
    assert not (tmp_path / "imported").exists()


def test_an_allowed_module_takes_part(module: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"plugins=\[stranger\] on the command line"):
        locate("stranger.weights")
    allow("stranger")
    assert not (tmp_path / "imported").exists()
    assert locate("stranger.weights").__name__ == "weights"
    for other in ("stranger.system", "stranger._private", "stranger.Path"):
        with pytest.raises(LabError, match="unknown function in stranger"):
            locate(other)
    with pytest.raises(LabError, match="did you mean weights"):
        locate("stranger.weigths")
    with pytest.raises(LabError, match="'strangers' is not an allowed module"):
        locate("strangers.weights")


@pytest.mark.parametrize("name", ["", "a b", "a;b", "../a", 3, "a."])
def test_only_modules_are_allowed(name: str) -> None:
    with pytest.raises(LabError, match="not the name of a module"):
        allow(name)


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_early.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(functions, "_allowed", {"fails_early"})
    with pytest.raises(LabError, match=r"fails_early\.f: division by zero"):
        locate("fails_early.f")


def test_data_sets_are_data_sets() -> None:
    for target in ("sclip_lab.data.prepare.place", "sclip_lab.data.base.Sample"):
        with pytest.raises(LabError, match="is no data set"):
            build_dataset({"_target_": target})
    with pytest.raises(LabError, match=r"unknown parameter of Folder 'imags'.*did you mean images"):
        build_dataset({"_target_": "sclip_lab.data.folder.Folder", "imags": 1})
    with pytest.raises(LabError, match="missing a required argument: 'root'"):
        build_dataset({"_target_": "sclip_lab.data.folder.Folder", "name": "x"})
    assert locate("sclip_lab.data.folder.Folder", ("sclip_lab.data",)) is Folder


@pytest.mark.parametrize(
    ("place", "target", "text"),
    [
        ("", "sclip_lab.segmentation.refinements.closing.closing",
         r"closing is a refinement of labels \(prediction\); this place takes a weights function"),
        ("", "sclip_lab.segmentation.views.blur", r"blur is a change of a view \(images\)"),
        ("", "sclip_lab.attention.prior.gaussian", "gaussian is a prior of the grid"),
        ("", "sclip_lab.attention.cdam.divergence", "divergence is no function for a yaml"),
        ("prior", "sclip_lab.attention.identity.identity",
         r"prior: identity is a weights function \(ctx\); this place takes a prior \(ctx\)"),
    ],
)  # fmt: skip
def test_a_function_of_another_kind(place: str, target: str, text: str) -> None:
    config: dict[str, object] = {"_target_": target}
    if place:
        config = {"_target_": "sclip_lab.attention.vanilla.vanilla", place: config}
    with pytest.raises(LabError, match=text):
        build_variant(config)


@pytest.mark.parametrize(
    ("field", "target"),
    [
        ("readout", "sclip_lab.segmentation.refinements.pamr.pamr"),
        ("refinement", "sclip_lab.segmentation.readouts.cosine.cosine"),
        ("prob_threshold", "sclip_lab.segmentation.readouts.surgery.surgery"),
        ("views", "sclip_lab.segmentation.thresholds.entropy"),
    ],
)
def test_a_protocols_functions_are_of_their_kinds(field: str, target: str) -> None:
    value: dict[str, object] = {"_target_": target}
    with pytest.raises(LabError, match="; this place takes a "):
        Protocol(
            **{field: {"photo": None, "other": {"change": value}} if field == "views" else value}
        )


def test_functions_of_ones_own_need_a_decorator_only_where_it_says_something() -> None:
    def mine(ctx: object, heat: float = 1.0) -> None: ...
    def no_place(*, ctx: object) -> None: ...

    assert bind(mine, {"heat": 2}, [weights_function, block_edit]).keywords == {"heat": 2.0}
    with pytest.raises(LabError, match="mine must be declared by its decorator"):
        bind(mine, {}, [block_edit])
    with pytest.raises(LabError, match=r"no_place must take the arguments of a mix \(ctx, wei"):
        bind(no_place, {}, [mix_function])


def test_every_function_of_the_package_that_a_yaml_names_is_declared() -> None:
    targets = re.findall(
        r"_target_: *(sclip_lab\.(?:attention|segmentation)[\w.]+)",
        "\n".join(path.read_text(encoding="utf-8") for path in conf_dir().rglob("*.yaml")),
    )
    assert len(set(targets)) > 40
    for target in targets:
        assert kind_of(locate(target)) is not None, target


@pytest.mark.parametrize("default", [{1, 2}, object()])
def test_a_default_that_no_yaml_can_hold_is_refused(default: object) -> None:
    def odd(ctx: object, table: object = default) -> object:
        return ctx

    with pytest.raises(LabError, match=r"table: .* cannot stand in a yaml"):
        functions.bind(odd, {}, (functions.weights_function,))
