"""Variants, readouts and data sets from outside of this repository, and what is let in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.cli import main
from sclip_lab.config import folders, guard, plugins
from sclip_lab.core import functions, identity
from sclip_lab.core.errors import LabError
from tests import outside, photos, running


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_allowed", set())
    monkeypatch.setattr(folders, "_added", [])
    for variable in (functions.VARIABLE, folders.VARIABLE):
        monkeypatch.setenv(variable, "")  # what the code adds to them goes with the test
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that can be imported, and that nobody allowed."""
    root = outside.write(tmp_path, "somebody")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "somebody"]:
        monkeypatch.delitem(sys.modules, name)
    return root


def test_a_folder_and_a_module_in_python(package: Path) -> None:
    with pytest.raises(LabError, match="unknown attention 'heated'"):
        lab.load_attention("heated")
    folders.add_folder(package / "conf")
    with pytest.raises(LabError, match=r"plugins=\[somebody\.ideas\] on the command line"):
        lab.load_attention("heated")
    assert "somebody.ideas" not in sys.modules  # a yaml alone imports nothing
    lab.allow("somebody")
    variant = lab.load_attention("heated", heat=3.0)
    assert variant.config["heat"] == 3.0
    lab.testing.check_variant(variant, row_sum=1.0)
    assert lab.load_dataset("squares", side=32)[1].image.shape == (32, 32, 3)
    assert lab.load_attention("csa").name == "csa"
    with pytest.raises(LabError, match="did you mean heated"):
        lab.load_attention("heatd")


def test_its_code_and_its_helpers_are_in_the_key(package: Path) -> None:
    lab.allow("somebody", conf=package / "conf")
    modules = lab.load_attention("heated").modules
    before = identity.of_code(modules)
    (package / "helpers.py").write_text(outside.HELPERS.replace("heat))", "2 * heat))"))
    identity._known_modules.clear()
    assert identity.of_code(modules) != before


def test_the_package_comes_first(package: Path) -> None:
    (package / "conf/attention/csa.yaml").write_text("# a thief\n_target_: os.system\n")
    before = lab.load_attention("csa").key
    folders.add_folder(package / "conf")
    assert lab.load_attention("csa").key == before


WHOLE = ("attention=vanilla,csa,heated", "dataset=squares", "protocol=sclip", "readout=shifted")
WHOLE += ("protocol.templates=['a photo of {}']",)
# squares has none of the settings of patchwork that the tests' sweeps make small
FREE = ("~dataset.limit", "~dataset.height", "~dataset.width")


@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath", "environment"])
def test_a_fused_sweep_with_a_folder(
    how: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["plugins=[somebody]"]
    if how == "--config-dir":
        words.append(f"--config-dir={package / 'conf'}")
    elif how == "hydra.searchpath":
        words.append(f"hydra.searchpath=[file://{package / 'conf'}]")
    else:
        monkeypatch.setenv(folders.VARIABLE, str(package / "conf"))
    outcome = sweep(tmp_path, *words, *WHOLE)
    assert outcome.code == 0, outcome.err
    scores = results.summary(results.load(tmp_path / "store")).set_index("attention")["miou"]
    assert set(scores.index) == {"vanilla", "csa", "heated"}
    assert "pass" not in os.environ.get(functions.VARIABLE, "")


def sweep(folder: Path, *words: str) -> running.Outcome:
    """A sweep without the settings of patchwork, which other data sets do not have."""
    with pytest.MonkeyPatch.context() as patch:
        without_dataset = [w for w in running.QUICK if not w.startswith("dataset")]
        patch.setattr(running, "QUICK", without_dataset)
        return running.evaluate(folder, "-m", *words)


def test_a_yaml_cannot_allow_itself(package: Path, tmp_path: Path) -> None:
    preset = package / "conf/experiment/all.yaml"
    preset.parent.mkdir()
    preset.write_text("# @package _global_\nplugins: [somebody]\n")
    outcome = sweep(
        tmp_path,
        f"--config-dir={package / 'conf'}", "+experiment=all", "attention=heated,csa",
    )  # fmt: skip
    assert "somebody.ideas" not in sys.modules
    assert outcome.code != 0 or "named by a yaml" in outcome.out + outcome.err


EVIL = "# evil\n_target_: os.system\ncommand: touch {mark}\nname: evil\n"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the evil data set would leave behind; its yaml is in a folder that is searched."""
    path = tmp_path / "conf/dataset/evil.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EVIL.format(mark=tmp_path / "ran"))
    os.environ[folders.VARIABLE] = str(tmp_path / "conf")
    return tmp_path / "ran"


def test_a_strangers_data_set_is_refused_by_all_commands(
    mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = "_target_ os.system: 'os' is not an allowed module"
    with pytest.raises(LabError, match=says):
        lab.load_dataset("evil")
    assert main.main(["data", "verify", "evil"]) == 1
    assert main.main(["learn-projection", "--dataset", "evil"]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(says) == 2
    with pytest.MonkeyPatch.context() as patch:
        without_dataset = [w for w in running.QUICK if not w.startswith("dataset")]
        patch.setattr(running, "QUICK", without_dataset)
        outcome = running.evaluate(tmp_path, "dataset=evil")
    assert outcome.code == 1
    [line] = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert says in line
    assert not mark.exists()


SECRET = "a secret of the user"
HYDRA = {
    "launcher": "hydra: {{launcher: {{_target_: os.system, command: touch {mark}}}}}",
    "callback": "hydra: {{callbacks: {{x: {{_target_: os.system, command: touch {mark}}}}}}}",
    "handler": 'hydra: {{job_logging: {{handlers: {{x: {{"()": os.system, command: x}}}}}}}}',
    "config": 'hydra: {{job_logging: {{handlers: {{x: {{"()": logging.config.fileConfig}}}}}}}}',
    "import": "hydra: {{job_logging: {{handlers: {{x: {{stream: 'ext://antigravity.x'}}}}}}}}",
    "environment": "hydra: {{job: {{env_set: {{PYTHONSTARTUP: x}}}}}}",
    "class": "hydra: {{launcher: {{_target_: hydra.utils.get_class, path: antigravity.x}}}}",
    "variable": "protocol: {{name: '${{oc.env:SECRET_OF_MINE}}'}}",
    "indirect": "protocol: {{name: '${{oc.${{device}}:SECRET_OF_MINE}}'}}",
    "through": "hydra: {{job: {{name: '${{oc.env:SECRET_OF_MINE}}'}}}}\n"
    "protocol: {{name: '${{hydra:job.name}}'}}",
    "decoded": "protocol: {{name: '${{oc.decode:1}}'}}",
}


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize("kind", HYDRA)
def test_a_strangers_preset_runs_and_reads_nothing(
    kind: str, multirun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if multirun and kind not in ("launcher", "handler", "variable"):
        return
    monkeypatch.setenv("SECRET_OF_MINE", SECRET)
    path = tmp_path / "theirs/experiment/evil.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\n" + HYDRA[kind].format(mark=tmp_path / "ran") + "\n")
    words = [f"--config-dir={tmp_path / 'theirs'}", "experiment=evil", *["-m"] * multirun]
    outcome = running.evaluate(tmp_path, *words)
    assert outcome.code == 1
    assert not (tmp_path / "ran").exists()
    assert "antigravity" not in sys.modules
    text = outcome.out + outcome.err
    assert "error: " in text
    assert "Traceback" not in text
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p for p in written if SECRET.encode() in p.read_bytes()]


def test_own_references_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCLIP_LAB_X", "here")
    guard.check_values({"a": "${b.c}", "b": "${package:x}", "c": "${oc.env:SCLIP_LAB_X,1}"})
    for value in ("${oc.env:HOME}", "${ oc.env : HOME}", "x${oc.env:SCLIP_LAB_${x}}", "${hydra.a}"):
        with pytest.raises(LabError, match=r"a\.0: "):
            guard.check_values({"a": [value]})


def test_words_of_a_command_line(tmp_path: Path) -> None:
    words = ["-m", "plugins=[a.b, 'c']", "--config-dir", "x", "hydra.searchpath=[file://y,pkg://z]"]
    assert plugins._on_line(words) == (["a.b", "c"], [Path("x"), Path("y")])
    with pytest.raises(LabError, match="'a;b' is not the name of a module"):
        plugins.enter(["plugins=[a;b]"])
    with pytest.raises(LabError, match="no such folder"):
        lab.allow(conf=tmp_path / "none")


def test_a_module_beside_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside.write(tmp_path, "beside_me")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    plugins.enter(["plugins=[beside_me.ideas]"])
    assert functions.locate("beside_me.ideas.heated").__name__ == "heated"
    assert str(tmp_path) in os.environ["PYTHONPATH"]


@pytest.mark.parametrize("how", ["typed", "variable"])
def test_a_module_elsewhere_is_an_error_that_says_where_to_stand(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``my.ideas`` lies in the folder ``there``; the command is typed somewhere else."""
    there, here = tmp_path / "there", tmp_path / "here"
    name = f"afar_{how}"
    root = outside.write(there, name)
    here.mkdir()
    words = ["evaluate", f"--config-dir={root / 'conf'}", "attention=heated", "--cfg=job"]
    photo = photos.write(tmp_path / "photos", [(64, 80)]) / "images/0.jpg"
    explore = ["explore", str(photo), "--attention=heated", "--names=dots", "--patches=20"]
    if how == "typed":
        command = [*words, f"plugins=[{name}.ideas]"]
    else:
        monkeypatch.setenv(functions.VARIABLE, f"{name}.ideas")
        monkeypatch.setenv(folders.VARIABLE, str(root / "conf"))
        command = explore
    monkeypatch.chdir(here)
    assert main.main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"no module '{name}' in this folder ({here})" in line
    assert f"start in the folder that holds {name}, install its package, or name" in line
    assert "PYTHONPATH" in line
    monkeypatch.chdir(there)
    monkeypatch.setenv("PYTHONPATH", "")
    assert main.main(command) == 0
    functions.allow(name)
    with pytest.raises(LabError, match=f"no module '{name}.idea'; '{name}' is .*there/{name}"):
        functions.locate(f"{name}.idea.heated")
