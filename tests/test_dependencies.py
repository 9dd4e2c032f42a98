"""What the product imports is what pyproject.toml declares, and its documents are all here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("sclip_lab", "hydra_plugins")
OWN = {*PRODUCT, "benchmarks", "analysis", "tests"}


def imported(folder: Path) -> set[str]:
    """Top-level modules that the python files of a folder import, lazily or not."""
    modules = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).partition(".")[0])
    return modules - OWN - sys.stdlib_module_names


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {plain(re.split(r"[<>=~!\[; ]", line)[0]) for names in lists for line in names}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("folder", PRODUCT)
def test_imports_are_declared(folder: str) -> None:
    providers = packages_distributions()
    for module in imported(ROOT / folder):
        assert {plain(name) for name in providers[module]} & declared(), f"{folder}: {module}"


def test_documents_that_are_named_are_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    files = [ROOT / name for name in listed if name.endswith((".py", ".yaml", ".md", ".csv"))]
    there = {path.name for path in files if path.suffix == ".md"}
    assert len(files) > 300
    for file in files:
        if file.is_file():
            texts = set(re.findall(r"\b([A-Z][A-Z_]{3,}\.md)\b", file.read_text(encoding="utf-8")))
            assert texts <= there, f"{file.relative_to(ROOT)} names {texts - there}"
