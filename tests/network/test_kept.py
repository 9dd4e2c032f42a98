"""A store knows the key of a network, and never that of another one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sclip_lab.core import fingerprint, sealed
from sclip_lab.core.errors import LabError
from sclip_lab.network import kept
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.kept import KeptBackbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.results.store import upkeep
from tests.running import QUICK

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, backbone: Backbone, architecture: dict[str, Any]) -> dict[str, Any]:
    """The toy network in files."""
    weights, named = tmp_path / "weights.safetensors", tmp_path / "architecture.json"
    safetensors.torch.save_file(backbone.model.state_dict(), weights)
    named.write_text(json.dumps(architecture))
    return {"architecture": str(named), "checkpoint": str(weights), "device": "cpu"}


def test_what_is_known_is_what_is_built(
    tmp_path: Path, config: dict[str, Any], images: torch.Tensor
) -> None:
    built, stamp = load_backbone(**config, precision="bf16", padding="corner"), kept.stamp(config)
    kept.remember(built, config, stamp, tmp_path)
    record = kept.known(stamp, tmp_path)
    assert record is not None
    calls: list[Backbone] = []
    known = KeptBackbone(record, lambda: calls.append(built) or built)  # type: ignore[func-returns-value]
    for name in ("key", "name", "depth", "device", "has_text", "description", "padding"):
        assert getattr(known, name) == getattr(built, name), name
    assert (known.mean, known.std) == (built.mean, built.std)
    assert known.position_embedding == built.position_embedding
    assert calls == []
    assert torch.equal(known.embed(images), built.embed(images))
    assert (known.embed_dim, known.text_key) == (built.embed_dim, built.text_key)
    assert (known.device, known.depth, len(calls)) == (built.device, built.depth, 1)
    with pytest.raises(AttributeError):
        known.colour  # noqa: B018


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    at = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


def _edit(module: str) -> Callable[[pytest.MonkeyPatch], None]:
    def edit(patch: pytest.MonkeyPatch) -> None:
        path, read = fingerprint._source(module), fingerprint._text
        patch.setattr(fingerprint, "_known", {})
        patch.setattr(fingerprint, "_text", lambda p: read(p) + ("\nx = 1\n" if p == path else ""))

    return edit


def _release(package: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(
        kept, "version", lambda name: "0.0" if name == package else metadata.version(name)
    )


def _file_of(package: str) -> Callable[[pytest.MonkeyPatch], None]:
    files = kept._files
    return lambda patch: patch.setattr(
        kept,
        "_files",
        lambda name: [*files(name), *([("new.py", 1, 1)] if name == package else [])],
    )


@pytest.mark.parametrize(
    "change",
    [
        _edit("sclip_lab.network.loading"),
        _edit("sclip_lab.network.tower"),
        _edit("sclip_lab.network.precision"),
        _edit("sclip_lab.network.kept"),
        *map(_release, kept.VERSIONS),
        *map(_file_of, kept.BUILDERS),
        lambda patch: patch.setattr(torch, "__version__", "9.9.9"),
        lambda patch: patch.setattr(torch.cuda, "is_available", lambda: "other"),
        lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "other"),
        lambda patch: patch.setattr(platform, "python_version", lambda: "9.9.9"),
    ],
)
def test_code_and_releases_count(
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    before = kept.stamp(config)
    assert before == kept.stamp(dict(config))
    change(monkeypatch)
    assert kept.stamp(config) != before


def test_files_and_configuration_count(config: dict[str, Any]) -> None:
    stamps = [kept.stamp(config)]
    for name in ("checkpoint", "architecture"):
        _flip(Path(config[name]))
        stamps.append(kept.stamp(config))
    _flip(Path(config["checkpoint"]))
    stamps.append(kept.stamp({**config, "checkpoint": None, "pretrained": config["checkpoint"]}))
    random = {"name": "ViT-B-16", "pretrained": None, "checkpoint": None}
    stamps += [kept.stamp({**random, "seed": seed}) for seed in (0, 1)]
    stamps.append(kept.stamp({**random, "seed": 0, "precision": "bf16"}))
    stamps.append(kept.stamp({**random, "seed": 0, "_target_": "sclip_lab.network.vit.load_vit"}))
    assert None not in stamps
    assert len(set(stamps)) == len(stamps)


def test_every_file_of_the_builders_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "builder_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('not to be imported')")
    (package / "model.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(kept._files(package.name))
    assert [name for name, *_ in before] == ["__init__.py", "model.json"]
    (package / "model.json").write_text("{ }")
    assert list(kept._files(package.name)) != before


@pytest.mark.parametrize(
    "given",
    [
        {"name": "ViT-B-16", "pretrained": "openai", "checkpoint": None},
        {"name": "hf-hub:somebody/something", "pretrained": None, "checkpoint": None},
    ],
)
def test_weights_of_a_hub_are_not_kept(tmp_path: Path, given: dict[str, Any]) -> None:
    assert kept.stamp(given) is None
    assert kept.known(None, tmp_path) is None


def test_texts_of_a_hub_are_not_kept(
    tmp_path: Path, config: dict[str, Any], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HFTextEncoder:
        pass

    monkeypatch.setattr(backbone.model, "text", HFTextEncoder(), raising=False)
    kept.remember(backbone, config, kept.stamp(config), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_that_changed_meanwhile_is_not_kept(
    tmp_path: Path, config: dict[str, Any], backbone: Backbone
) -> None:
    stamp = kept.stamp(config)
    _flip(Path(config["checkpoint"]))
    kept.remember(backbone, config, stamp, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_wrong_record_is_found(
    tmp_path: Path, config: dict[str, Any], backbone: Backbone
) -> None:
    stamp = kept.stamp(config)
    assert stamp is not None
    kept.remember(backbone, config, stamp, tmp_path)
    [path] = (tmp_path / kept.FOLDER).iterdir()
    other = path.with_name(f"{'0' * 64}.json")  # a sound file in the wrong place
    other.write_bytes(path.read_bytes())
    assert kept.known("0" * 64, tmp_path) is None
    changed = path.read_text().replace('"padding": "floor"', '"padding": "corner"')
    path.write_text(changed)
    assert [f.state for f in upkeep.check(tmp_path) if f.path == path] == ["damaged"]
    assert kept.known(stamp, tmp_path) is None  # and set aside
    assert not path.exists()
    kept.remember(backbone, config, stamp, tmp_path)
    record = dict(kept.known(stamp, tmp_path) or {})
    sealed.write_json(path, {**record, "key": "f" * 64})
    wrong = kept.known(stamp, tmp_path)
    assert wrong is not None
    with pytest.raises(LabError, match="is not that of its weights; delete that folder"):
        KeptBackbone(wrong, lambda: backbone).embed(torch.zeros(1, 3, 32, 32))


def test_a_finished_sweep_builds_no_network(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from sclip_lab.cli.evaluate import main\n"
        "main()\n"
        "heavy = {'open_clip', 'timm', 'torchvision', 'wandb', 'matplotlib', 'sklearn'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    typed = ["-m", "attention=vanilla,csa", *QUICK, "paths.store=store", "hydra.sweep.dir=out"]
    loaded = []
    for _ in range(2):
        command = [sys.executable, "-c", code, *typed]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        loaded.append(done.stdout.splitlines()[-1])
    assert "open_clip" in loaded[0]
    assert loaded[1] == "loaded: []"
