"""The wheel and a stranger's package beside it, in an environment of their own."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests import outside, running

ROOT = Path(__file__).parents[1]
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "someones-ideas"
version = "1.0"
dependencies = ["sclip-lab"]

[project.entry-points."sclip_lab.plugins"]
ideas = "someones_ideas"

[tool.hatch.build.targets.wheel]
packages = ["someones_ideas"]
"""
SCORES = """
import sclip_lab as lab
assert lab.__file__.startswith({prefix!r}), lab.__file__
scores = lab.results.summary(lab.results.load({store!r})).set_index("attention")["miou"]
assert set(scores.index) == {{"vanilla", "csa", "heated"}}, scores
lab.testing.check_variant(lab.load_attention("heated"), row_sum=1.0)
assert len(lab.load_dataset("squares")) == 2
"""


def run(*command: object, cwd: Path) -> None:
    """A command without this checkout on Python's path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SCLIP"))}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, (
        f"{' '.join(words)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    )


@pytest.mark.slow
@pytest.mark.network
def test_a_package_beside_the_wheel_takes_part_in_a_sweep(tmp_path: Path) -> None:
    project = tmp_path / "project"
    outside.write(project, "someones_ideas")
    (project / "pyproject.toml").write_text(PROJECT)
    wheels, fresh = tmp_path / "wheels", tmp_path / "fresh"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    for source in (ROOT, project):
        run(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source, cwd=tmp_path)
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / "bin/python"
    [packages] = fresh.glob("lib/python*/site-packages")
    run(*pip, "install", "--no-deps", "--target", packages, *wheels.glob("*.whl"), cwd=tmp_path)
    # The heavy packages are those of this environment; its own sclip_lab comes first.
    shared = [path for path in [*site.getsitepackages(), *sys.path] if "site-packages" in path]
    (packages / "zz_shared.pth").write_text("\n".join(dict.fromkeys(shared)))
    store = tmp_path / "store"
    words = ["attention=vanilla,csa,heated", "dataset=squares", "readout=shifted"]
    words += ["protocol.templates=['a photo of {}']", f"paths.store={store}"]
    words += [word for word in running.QUICK if not word.startswith("dataset")]
    run(python, "-m", "sclip_lab.cli.main", "evaluate", "-m", *words, cwd=tmp_path)
    run(python, "-c", SCORES.format(prefix=str(fresh), store=str(store)), cwd=tmp_path)
