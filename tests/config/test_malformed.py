"""Malformed yaml files and command lines: one line names the file or key, and nothing is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sclip_lab.config import folders, guard
from sclip_lab.config.composition import composed
from sclip_lab.config.registry import conf_dir
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.errors import LabError, describe
from sclip_lab.run.job import make_spec
from tests.running import evaluate

HEAD = "defaults: [_variant, _self_]\n"
CSA = HEAD + "_target_: sclip_lab.attention.correlative.correlative\nprojections: [query]\n"
ATTENTION: dict[str, bytes | str] = {
    "empty": "",
    "comment alone": "# nothing",
    "document marks": "---\n...\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "whole number": "5",
    "fraction": "1.5",
    "text": "hello",
    "true": "true",
    "date": "2001-12-14",
    "list": "[1, 2]",
    "list of mappings": "- a: 1\n- b: 2\n",
    "nested lists": "[[[[1]]]]",
    "binary": bytes(range(256)),
    "zeros": b"\0\0\0\0",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "zip": b"PK\x03\x04\x14\0\0\0",
    "pickle": b"\x80\x04\x95cos\nsystem\n",
    "UTF-16": "a: 1".encode("utf-16"),
    "Latin-1": "a: é".encode("latin-1"),
    "BOM in the middle": "a: 1\n\ufeffb: 2",
    "tab": "a:\n\t- 1",
    "tab before a key": "\ta: 1",
    "open bracket": "a: [",
    "open brace": "a: {b: 1",
    "open quote": "a: 'b",
    "open double quote": 'a: "b\nc',
    "wrong indent": "a:\n   b: 1\n  c: 2",
    "two colons": "a: b: c",
    "at sign": "a: @b",
    "backtick": "a: `b`",
    "percent": "%a: 1",
    "unknown escape": r'a: "\q"',
    "key twice": "a: 1\na: 2",
    "key twice, nested": "a: {b: 1, b: 2}",
    "key is a list": "? [a, b]\n: c",
    "key is a mapping": "? {a: 1}\n: c",
    "key is null": "null: 1",
    "key is a number": "5: 1",
    "key is true": "true: 1",
    "key with dots": "a.b: 1",
    "key is empty": '"": 1',
    "key with a line break": '"a\\nb": 1',
    "merge of a number": "<<: 5",
    "merge of a list": "<<: [1, 2]",
    "merge of an unknown alias": "<<: *b",
    "merge cycle": "a: &a {<<: *a}",
    "alias cycle": "a: &a [*a]",
    "unknown alias": "a: *b",
    "many aliases": "a: &a [x]\nb: [" + "*a, " * 30 + "]\n",
    "tag of Python": "a: !!python/object/apply:os.system [touch evil]",
    "tag of Python, name": "a: !!python/name:os.system",
    "tag of Python, module": "a: !!python/module:os",
    "own tag": "a: !own 5",
    "binary tag": "a: !!binary x",
    "timestamp": "a: 2001-99-99",
    "set": "a: !!set {b, c}",
    "ordered mapping": "a: !!omap [b: 1]",
    "deep braces": "{" * 3000,
    "deep dashes": "- " * 2000,
    "deep questions": "? " * 2000,
    "deep indent": "".join(" " * i + "a:\n" for i in range(500)),
    "too large": "a: " + "x" * 1_000_001,
    "defaults is a number": "defaults: 5",
    "defaults is text": "defaults: csa",
    "defaults is a mapping": "defaults: {a: b}",
    "defaults has a number": "defaults: [5]",
    "defaults has null": "defaults: [null]",
    "defaults has a list": "defaults: [[_variant]]",
    "defaults has a long mapping": "defaults: [{a: b, c: d}]",
    "defaults of no file": "defaults: [nothing]",
    "defaults of no group": "defaults: [/nothing: a]",
    "defaults of no choice": "defaults: [/attention/prior: nothing]",
    "defaults outside": "defaults: [../../../etc/passwd]",
    "defaults of itself": "defaults: [case]",
    "defaults in a cycle": "defaults: [other]",
    "defaults with itself twice": "defaults: [_self_, _self_]",
    "defaults, override first": "defaults: [override prior: gaussian, _variant]",
    "defaults, override of nothing": "defaults: [_variant, override nothing: a]",
    "defaults of a reference": "defaults: [/attention/prior: '${nothing}']",
    "package of a number": "# @package 5\na: 1",
    "package with spaces": "# @package a b\na: 1",
    "package elsewhere": "# @package nothing\na: 1",
    "package of Hydra": "# @package hydra\nrun: {dir: /}",
    "forbidden function": HEAD + "_target_: os.system\ncommand: touch evil",
    "builtin": HEAD + "_target_: builtins.eval\nsource: open('evil', 'w')",
    "function of the core": HEAD + "_target_: sclip_lab.core.files.write_text",
    "private function": HEAD + "_target_: sclip_lab.attention.variant._build",
    "function of another kind": HEAD + "_target_: sclip_lab.attention.prior.gaussian",
    "function of a readout": HEAD + "_target_: sclip_lab.segmentation.readouts.cosine.cosine",
    "no such function": HEAD + "_target_: sclip_lab.attention.vanilla.nothing",
    "no such module": HEAD + "_target_: sclip_lab.attention.nothing.nothing",
    "module": HEAD + "_target_: sclip_lab.attention.vanilla",
    "target with a path": HEAD + "_target_: ../../evil.py",
    "target with spaces": HEAD + "_target_: 'sclip_lab.attention vanilla'",
    "target is a number": HEAD + "_target_: 5",
    "target is a list": HEAD + "_target_: [a]",
    "target is null": HEAD + "_target_: null",
    "target is a digest": HEAD + "_target_: __main__.f#0123456789abcdef",
    "no target": HEAD + "temperature: 1.0",
    "unknown key": CSA + "temperatur: 1.0",
    "wrong type": CSA + "temperature: hot",
    "list for a number": CSA + "temperature: [1, 2]",
    "mapping for a number": CSA + "temperature: {a: 1}",
    "true for a number": CSA + "temperature: true",
    "not a number": CSA + "temperature: .nan",
    "infinite": CSA + "temperature: .inf",
    "huge": CSA + "temperature: " + "9" * 5000,
    "huge float": CSA + "temperature: 1e999",
    "text for true": CSA + "residual: 'yes'",
    "number for true": CSA + "residual: 1",
    "unknown stream": CSA + "stream: nothing",
    "no layers": CSA + "layers: []",
    "layer out of range": CSA + "layers: [99]",
    "layer is text": CSA + "layers: [a]",
    "layer is infinite": CSA + "layers: [.inf]",
    "layer is nested": CSA + "layers: [[1]]",
    "layer is true": CSA + "layers: [true]",
    "name is a number": CSA + "name: 5",
    "name is a list": CSA + "name: [a]",
    "name is a mapping": CSA + "name: {a: b}",
    "prior is a number": CSA + "prior: 5",
    "prior without a target": CSA + "prior: {sigma: 5}",
    "prior of another kind": CSA + "prior: {_target_: sclip_lab.attention.vanilla.self_attention}",
    "prior with an unknown key": CSA
    + "prior: {_target_: sclip_lab.attention.prior.gaussian, sigm: 5}",
    "prior with a wrong type": CSA
    + "prior: {_target_: sclip_lab.attention.prior.gaussian, sigma: []}",
    "environment": CSA + "temperature: ${oc.env:HOME}",
    "environment with a default": CSA + "temperature: ${oc.env:NOTHING,1.0}",
    "date resolver": CSA + "temperature: ${now:%Y}",
    "unknown resolver": CSA + "temperature: ${nothing:1}",
    "create resolver": CSA + "temperature: ${oc.create:'{a: 1}'}",
    "reference to nothing": CSA + "temperature: ${nothing}",
    "reference cycle": CSA + "temperature: ${attention.temperature}",
    "reference within a reference": CSA + "temperature: ${a${b}}",
    "reference to Hydra": CSA + "temperature: ${hydra.runtime.cwd}",
    "open reference": CSA + "temperature: ${seed",
    "empty reference": CSA + "temperature: ${}",
    "on_dataset without values": CSA + "temperature: ${on_dataset:1}",
    "on_dataset of a number": CSA + "temperature: ${on_dataset:1,5}",
    "on_protocol of numbers": CSA + "temperature: ${on_protocol:1,{sclip:5}}",
    "missing value": CSA + "temperature: ???",
}
OTHERS: dict[str, tuple[str, str]] = {
    "dataset, forbidden class": ("dataset", "_target_: pathlib.Path\nname: case"),
    "dataset, no class": ("dataset", "name: case"),
    "dataset, no root": ("dataset", "_target_: sclip_lab.data.folder.Folder\nname: case"),
    "dataset, text": ("dataset", "hello"),
    "backbone, forbidden loader": ("backbone", "_target_: torch.load\nf: evil\nusual: null"),
    "backbone, no file": ("backbone", "name: ViT-B-16\ncheckpoint: nothing.pt\nusual: null"),
    "backbone, list": ("backbone", "[1]"),
    "protocol, unknown field": ("protocol", "defaults: [_protocol]\nname: case\nstridee: 5"),
    "protocol, wrong type": ("protocol", "defaults: [_protocol]\nname: case\nstride: []"),
    "protocol, text": ("protocol", "hello"),
    "protocol, no prompts": ("protocol", "defaults: [_protocol]\nname: case\ntemplates: []"),
    "protocol, expected is a number": (
        "protocol",
        "defaults: [_protocol]\nname: case\nexpected: 5",
    ),
    "dataset, name is a list": (
        "dataset",
        "_target_: sclip_lab.data.patchwork.Patchwork\nname: [a]",
    ),
    "readout, no package": ("readout", "_target_: sclip_lab.segmentation.readouts.cosine.cosine"),
    "readout, forbidden": ("readout", "# @package protocol.readout\n_target_: os.system"),
    "refinement, wrong kind": (
        "refinement",
        "# @package protocol.refinement\n_target_: sclip_lab.segmentation.views.blur",
    ),
    "guidance, number": ("guidance", "5"),
    "guidance, unknown key": ("guidance", "nam: dino"),
    "experiment, sets the environment": (
        "experiment",
        "# @package _global_\nhydra: {job: {env_set: {A: b}}}",
    ),
    "experiment, calls a handler": (
        "experiment",
        "# @package _global_\nhydra: {launcher: {_target_: os.system}}",
    ),
    "experiment, text for Hydra": ("experiment", "# @package _global_\nhydra: hello"),
    "experiment, grids are a number": (
        "experiment",
        "# @package _global_\nhydra: {sweeper: {grids: 5}}",
    ),
    "experiment, swept keys are a list": (
        "experiment",
        "# @package _global_\nhydra: {sweeper: {params: [5]}}",
    ),
    "experiment, loggers are a mapping": (
        "experiment",
        "# @package _global_\nhydra: {verbose: {a: b}}",
    ),
}
WORDS = [
    "", " ", "=", "=5", "attention", "attention=", "attention=nothing", "attention=csa=vanilla",
    "attention={a:1}", "attention=5", "attention=null", "attention='csa",
    "attention=\"csa", "attention=csa attention=vanilla", "attention=../conf/attention/csa",
    "attention.temperature=", "attention.temperature=hot", "attention.temperature=nan",
    "attention.temperature=inf", "attention.temperature=1e999",
    "attention.temperature=" + "9" * 5000, "attention.temperature=[1,2]",
    "attention.temperature={a:1}", "attention.temperature=true", "attention.temperature=1 2",
    "attention.temperatur=1", "attention..temperature=1", "attention[temperature]=1",
    "attention.temperature.x=1", "attention._target_=os.system", "attention._target_=5",
    "+attention=csa", "~attention", "~nothing", "++attention.nothing=5", "+=5", "~=",
    "seed=1.5", "seed=-1", "seed=" + "9" * 40, "seed=a", "seed=[1", "seed=${oc.env:HOME}",
    "seed=${now:%Y}", "seed=${nothing}", "device=nothing", "device=5", "precision=fp7",
    "batch_images=0", "batch_images=1e9", "shard=5", "shard=[1,1]", "shard=[0]", "shard=[a,b]",
    "paths=5", "paths.store=", "paths.store='~/a'", "paths.store=[a]", "paths.stores=a",
    "paths.store=" + "a" * 300,
    "dataset=nothing", "dataset.limit=-1", "dataset.limit=a", "dataset.images=5",
    "dataset.height=[1]", "backbone=nothing", "backbone.checkpoint=nothing.pt",
    "protocol=nothing", "protocol.stride=0", "protocol.stride=a", "protocol.readout=5",
    "protocol.templates=[nan]", "protocol.templates=5", "pictures=5", "pictures.images=-1",
    "diagnostics=nothing", "diagnostics.measures=5", "diagnostics.images=a", "tracking.mode=5",
    "plugins=[os]", "experiment=nothing", "experiment=demo,card", "experiment=5",
    "hydra.job.name=a/b", "hydra.run=5", "hydra/launcher=nothing",
    "\uff41ttention=csa", "attention=\u202ecsa", "seed=\ud800", "seed=a\nb", "seed=range(1,a)",
    "seed=choice(", "seed=glob(*)", "attention=[csa]", "attention=[csa,vanilla]",
    "attention/prior=[gaussian]", "protocol=[sclip]", "device=meta", "hydra.verbose=5",
    "diagnostics.layers=5", "dataset.name=", "attention.name=[a]", "attention.layers=[true]",
    "protocol.templates=[]",
]  # fmt: skip
SWEEPS = ["seed=range(3,1)", "seed=range(1,9,0)", "seed=range(1,1000000000)",
          "attention=glob(nothing*)", "attention=[csa],vanilla",
          "hydra.job.env_set={a:{b:{c:1}}}"]  # fmt: skip
# What Hydra and logging refuse when a job is to begin, and the key that the error names.
WHOLE = {
    "no such launcher": (
        ["-m"], "hydra: {launcher: {_target_: hydra_plugins.nothing.X}}", "hydra.launcher",
    ),
    "no such handler": ([], "hydra: {job_logging: {root: {handlers: [x]}}}", "hydra.job_logging"),
    "no such prompts": ([], "protocol: {templates: simple}", "unknown set in protocol.templates"),
    "completion of nothing": (["--shell-completion"], "{}", "--shell-completion: Expecting one"),
    "a grid is a number": ([], "hydra: {sweeper: {grids: [5]}}", "hydra.sweeper.grids.0"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "_added", [tmp_path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*words: str) -> str:
    """The error of a command line, as the terminal shows it."""
    with pytest.raises((LabError, OSError)) as caught:
        make_spec(composed("dataset.limit=1", *words))
    message = describe(caught.value)
    assert "\n" not in message
    assert not Path("evil").exists()
    return message


@pytest.mark.parametrize("name", ATTENTION)
def test_a_file_of_a_variant(name: str, folder: Path) -> None:
    content = ATTENTION[name]
    (folder / "attention").mkdir()
    path = folder / "attention/case.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "attention/other.yaml").write_text("defaults: [case]\n")
    message = refused("attention=case")
    assert "case" in message or message.startswith(("attention", "_target_")), message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &a {b: *a}", "case.yaml: a value contains itself"),
        ("defaults: [case]", "attention=case: the defaults list of a yaml leads back"),
    ],
)
def test_a_file_that_leads_back_to_itself(content: str, words: str, folder: Path) -> None:
    (folder / "attention").mkdir()
    (folder / "attention/case.yaml").write_text(content)
    assert words in refused("attention=case")


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_group(name: str, folder: Path) -> None:
    group, content = OTHERS[name]
    (folder / group).mkdir()
    (folder / group / "case.yaml").write_text(content)
    message = refused(f"{group}=case")
    assert any(word in message for word in ("case", group, "hydra.", "_target_", "root")), message


@pytest.mark.parametrize("words", WORDS, ids=lambda words: ascii(words)[:40])
def test_a_command_line(words: str, folder: Path) -> None:
    message = refused(words)
    keys = words.partition("=")[0].lstrip("+~").split(".")
    assert any(key in message for key in keys), message


@pytest.mark.parametrize("word", SWEEPS)
def test_a_sweep(word: str) -> None:
    with pytest.raises(LabError, match=word.partition("=")[0]):
        sweep([word])


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_command(name: str, folder: Path) -> None:
    flags, content, key = WHOLE[name]
    (folder / "experiment").mkdir()
    (folder / "experiment/case.yaml").write_text(f"# @package _global_\n{content}\n")
    outcome = evaluate(folder, *flags, "experiment=case")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith(f"error: {key}")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("kind", ["loop", "folder", "pipe", "dangling"])
def test_a_file_that_is_none(kind: str, folder: Path) -> None:
    (folder / "attention").mkdir()
    path = folder / "attention/case.yaml"
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(folder / "nothing")
    assert "case" in refused("attention=case")


def test_the_packages_own_pass() -> None:
    for path in conf_dir().rglob("*.yaml"):
        guard.check_file(path)
