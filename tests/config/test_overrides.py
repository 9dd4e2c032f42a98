"""Names on the command line: unknown ones get the nearest, all that Hydra finds is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.types import RunMode

from sclip_lab.config.composition import CONFIG, Loader
from sclip_lab.core.errors import LabError
from tests.running import fail, succeed


def compose(*words: str, folder: Path | None = None, multirun: bool = False) -> None:
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    Loader(folder).load_configuration(CONFIG, list(words), run_mode=mode)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("atention=csa", "unknown key 'atention'; did you mean attention"),
        ("attention=cssa", "unknown attention 'cssa'; did you mean csa"),
        ("attention.temprature=1", "unknown key 'attention.temprature'; did you mean "
         "attention.temperature"),
        ("attention/prior=gausian", "unknown attention/prior 'gausian'; did you mean gaussian"),
        ("hydra/launcher=bsic", "unknown hydra/launcher 'bsic'; did you mean basic"),
        ("refinement.steps=3", "did you mean protocol.refinement.steps?"),
        ("paths.stor=x", "did you mean paths.store"),
        ("+attention/prior=gaussian", "leave out the plus"),
        ("experiment=layer", "unknown experiment 'layer'; did you mean layers"),
        ("experiment=card,demo", "one preset at a time"),
        ("experiment=[card,demo]", "one preset at a time"),
        ("dataset.limt=3", "unknown key 'dataset.limt'; did you mean dataset.limit"),
        ("attention=null", "unknown attention 'null'"),
        ("pictures={image: 3}", "unknown key 'pictures.image'; did you mean pictures.images"),
        ("attention=[csa", "attention=[csa: "),
        ("temperature=0.5", "unknown key 'temperature'; did you mean attention.temperature?"),
        ("stride=56", "did you mean protocol.stride?"),
        ("checkpoint=/x/epoch=31-step=1000.ckpt",
         "quoted twice: 'checkpoint=\"/x/epoch=31-step=1000.ckpt\"'"),
        ("attention.layers=last 2 3=4", "quoted twice: 'attention.layers=\"last 2 3=4\"'"),
    ],
)  # fmt: skip
def test_unknown_names(typed: str, message: str) -> None:
    with pytest.raises(LabError) as raised:
        compose(typed)
    assert message in str(raised.value)


def test_a_value_that_the_shell_has_split() -> None:
    with pytest.raises(LabError, match=r"attention\.layers: '2' is no KEY=VALUE; .*=\"last 2\"'"):
        compose("attention.layers=last", "2")
    with pytest.raises(LabError, match="'protocol:sclip' is no KEY=VALUE; write protocol=sclip"):
        compose("attention=csa", "protocol:sclip")
    compose('checkpoint="/x/epoch=31-step=1000.ckpt"', 'attention.layers="last 2"')


def test_an_unknown_name_of_a_sweep_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    ran = fail(tmp_path, "-m", "attention=vanilla,cas")
    assert "unknown attention 'cas'; did you mean csa" in ran.err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "typed",
    [
        ["hydra/launcher=basic"],
        ["hydra/launcher=local_jobs", "hydra.launcher.shards=2"],
        ["attention=naclip", "attention/prior=none"],
        ["attention=naclip", "attention.prior.sigma=2"],
        ["protocol=resclip", "protocol.readout.share=0.9"],
        ["++mine=1", "+attention.extra=2", "~pictures.points"],
        ["experiment=card", "attention=vanilla"],
        ["backbone=open_clip", "backbone.name=ViT-S-32-alt"],
        ["guidance=timm", "guidance.name=vit_tiny_patch16_224"],
    ],
)
def test_what_is_known_composes(typed: list[str]) -> None:
    compose(*typed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of yaml outside of the repository."""
    for group in ("attention", "experiment"):
        (tmp_path / "mine" / group).mkdir(parents=True)
    content = "defaults: [csa, _self_]\ntemperature: 2.0\n"
    (tmp_path / "mine/attention/warm.yaml").write_text(content)
    return tmp_path / "mine"


def test_choices_of_a_folder_elsewhere(folder: Path) -> None:
    searched = f"hydra.searchpath=[file://{folder}]"
    compose(searched, "attention=warm", "attention.temperature=3")
    compose("attention=warm", folder=folder)
    with pytest.raises(LabError, match="did you mean warm"):
        compose(searched, "attention=wram")
    with pytest.raises(LabError, match="did you mean warm"):
        compose("attention=wram", folder=folder)
    with pytest.raises(LabError, match="unknown attention 'warm'"):
        compose("attention=warm")


def test_a_choice_of_a_folder_elsewhere_runs(folder: Path, tmp_path: Path) -> None:
    ran = succeed(tmp_path, f"hydra.searchpath=[file://{folder}]", "attention=warm")
    assert "warm on patchwork: mIoU" in ran.out


def test_hydras_own_launcher(tmp_path: Path) -> None:
    succeed(tmp_path, "-m", "hydra/launcher=basic", "attention=vanilla,csa")
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2


def test_a_sweep_without_its_flag_says_so(tmp_path: Path) -> None:
    ran = fail(tmp_path, "experiment=temperature")
    [line] = ran.err.splitlines()
    assert line.startswith("error: experiment=temperature sweeps over attention, attention.temp")
    assert "-m experiment=temperature" in line
    assert not (tmp_path / "store").exists()


def test_hydras_rerun_reads_no_pickle(tmp_path: Path) -> None:
    ran = fail(tmp_path, f"--experimental-rerun={tmp_path / 'config.pickle'}")
    assert "config.pickle: refused, since its file is a pickle" in ran.err


@pytest.mark.parametrize("flags", [("--resolve",), ("-m", "--cfg=job")])
def test_flags_that_do_not_go_together_are_no_fault(tmp_path: Path, flags: tuple[str, ...]) -> None:
    ran = fail(tmp_path, *flags)
    assert ran.err.startswith("error: command line: ")


def test_a_key_that_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "mine/protocol").mkdir(parents=True)
    (tmp_path / "mine/protocol/odd.yaml").write_text("1.5: 2\n")
    ran = fail(tmp_path, f"--config-dir={tmp_path / 'mine'}", "protocol=odd")
    assert "'1.5'" in ran.err
    assert "unexpected" not in ran.err
