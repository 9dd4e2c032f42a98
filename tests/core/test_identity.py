"""The code's digest moves with what changes numbers, and with nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sclip_lab.core import identity
from sclip_lab.core.identity import CORE, OUTSIDE, of_code, reached

ROOT = Path(__file__).parents[2]
NAMED = ("sclip_lab.attention.correlative", "sclip_lab.data.folder")
CODE = '''
"""What it is."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pathlib import Path


def f(x: int, *, scale: float = 2.0) -> float:
    """Doc."""
    if x < 0:
        raise ValueError(f"{x} is below {0}: give more")
    log.warning("so %s", x)
    table = {**{"a": None}, "b": [1, -1]}
    text = f"{x:.{2}f}!r{x:{scale}}"
    return [y * scale for y in (x, 1 if x else 0)][0], text, table, lambda *a, **k: a
'''
# Of CODE, as Python 3.11, 3.12 and 3.13 find it.
GOLDEN = "373f097dc55f2c6e488f8683b40c381363fba280ed731a834cf4e69758e6ca0e"


def of_text(text: str) -> str:
    return identity._of_tree(ast.parse(text))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    identity._known_modules.clear()
    yield
    identity._known_modules.clear()


def test_comments_docstrings_layout_and_messages_do_not_count() -> None:
    other = CODE.replace('"""Doc."""', '"""Another."""\n    # why').replace(
        "give more", "it is low"
    )
    other = other.replace("so %s", "thus %s").replace("    from pathlib import Path", "    pass")
    other = other.replace("what it is", "other").replace(
        "(x, 1 if x else 0)", "( x , 1 if x else 0)"
    )
    assert other != CODE
    assert of_text(other) == of_text(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.0", "2.5"),
        ("x < 0", "x <= 0"),
        ("y * scale", "y + scale"),
        ("None", "0"),
        ("1, -1", "1, 1"),
        ("[0]", "[1]"),
        ('"a"', '"c"'),
        ("!r", "?r"),
        ("*a, **k", "*a"),
        ("    log.warning", "    x += 1\n    log.warning"),
    ],
)
def test_everything_else_counts(old: str, new: str) -> None:
    assert of_text(CODE.replace(old, new)) != of_text(CODE)


def test_the_core_is_all_that_makes_numbers() -> None:
    modules = reached([*CORE, *NAMED])
    for part in ("evaluation.loop", "evaluation.recorder", "evaluation.loader", "data.decode"):
        assert f"sclip_lab.{part}" in modules
    for part in ("network.block", "attention.variant", "results.table.metrics"):
        assert f"sclip_lab.{part}" in modules
    assert not set(modules) & set(OUTSIDE)
    assert not [
        m for m in modules if m.split(".")[1] in ("cli", "run", "config", "paper", "report")
    ]


def test_one_line_of_each_module_moves_it_and_a_reworded_message_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {m: identity._source(m).read_text() for m in reached([*CORE, *NAMED])}  # type: ignore[union-attr]
    codes = {m: identity._read_module(m) for m in texts}
    usual, reworded = of_code(NAMED), 0
    for module, text in texts.items():
        path = identity._source(module)
        assert path is not None

        def changed(into: str, name: str = module) -> str:
            monkeypatch.setattr(identity, "_read_module", lambda m: (of_text(into), codes[m][1])
                                if m == name else codes[m])  # fmt: skip
            identity._known_modules.clear()
            return of_code(NAMED)

        assert changed(f"{text}\nnew_line = 1\n") != usual, module
        assert changed(f"{text}\n# {module}\n") == usual, module
        raised = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Raise)]
        words = [c.value for n in raised for c in ast.walk(n) if isinstance(c, ast.Constant)]
        words = [w for w in words if isinstance(w, str) and len(w) > 12 and f'"{w}"' in text]
        if words:
            reworded += 1
            assert changed(text.replace(f'"{words[0]}"', '"Other words."')) == usual, module
    assert reworded > 3


def test_a_module_elsewhere_counts_with_what_it_imports_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mine_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("k = 1\n")
    (package / "weights.py").write_text("from .part import k\nimport os\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    functions = ["mine_for_a_test.weights"]
    assert reached(functions) == ["mine_for_a_test.part", "mine_for_a_test.weights"]
    first = of_code(functions)
    assert first != of_code()
    (package / "part.py").write_text("k = 2\n")
    identity._known_modules.clear()
    assert of_code(functions) != first


def test_a_module_that_lies_beside_a_users_counts_and_a_library_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_for_a_test.py").write_text("k = 1\n")
    (tmp_path / "ideas_for_a_test.py").write_text("import torch, beside_for_a_test\nimport os\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    functions = ["ideas_for_a_test"]
    assert reached(functions) == ["beside_for_a_test", "ideas_for_a_test"]
    first = of_code(functions)
    (tmp_path / "beside_for_a_test.py").write_text("k = 2\n")
    identity._known_modules.clear()
    assert of_code(functions) != first


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "libraries"])
def test_libraries_outside_of_this_environment_are_no_users_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """As with PYTHONPATH, ``pip install --target``, or a system's packages seen from a venv."""
    name = f"library_in_{folder.replace('-', '_')}"
    libraries = tmp_path / folder
    notes = libraries / f"{name}-1.0.dist-info"
    notes.mkdir(parents=True)
    (notes / "RECORD").write_text(f"{name}.py,sha256=x,6\n{notes.name}/RECORD,,\n")
    (libraries / f"{name}.py").write_text("k = 1\n")
    user = f"user_of_{name}"
    (tmp_path / f"{user}.py").write_text(f"import {name}\nfrom {name} import k\n")
    monkeypatch.syspath_prepend(str(libraries))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reached([user]) == [user]


def test_a_users_modules_among_libraries_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``pip install --target .`` in the folder of a project."""
    notes = tmp_path / "library_of_a_project-1.0.dist-info"
    notes.mkdir()
    (notes / "RECORD").write_text("library_of_a_project/__init__.py,sha256=x,6\n")
    (tmp_path / "library_of_a_project").mkdir()
    (tmp_path / "library_of_a_project/__init__.py").write_text("k = 1\n")
    (tmp_path / "helper_of_a_project.py").write_text("k = 1\n")
    (tmp_path / "ideas_of_a_project.py").write_text(
        "import helper_of_a_project\nimport library_of_a_project\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reached(["ideas_of_a_project"]) == ["helper_of_a_project", "ideas_of_a_project"]


def test_modules_in_folders_without_init_are_found_before_they_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "folders_for_a_test" / "below"
    deep.mkdir(parents=True)
    (deep / "part.py").write_text("k = 1\n")
    (tmp_path / "late_for_a_test.py").write_text(
        "def f(ctx):\n    from folders_for_a_test.below.part import k\n"
        "    import folders_for_a_test.below.part\n    return k\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reached(["late_for_a_test"]) == ["folders_for_a_test.below.part", "late_for_a_test"]


def test_a_reloaded_module_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    file = tmp_path / "reloaded_in_a_test.py"
    file.write_text("k = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_in_a_test")
    first = of_code(["reloaded_in_a_test"])
    file.write_text("k = 20\n")
    assert of_code(["reloaded_in_a_test"]) == first  # what runs is still the old code
    importlib.reload(module)
    assert of_code(["reloaded_in_a_test"]) != first
    del sys.modules["reloaded_in_a_test"]


def test_the_digest_of_a_text_is_known() -> None:
    assert of_text(CODE) == GOLDEN


def others() -> list[str]:
    """Interpreters of other Python versions on this machine."""
    return sorted(
        str(path)
        for path in Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python")
        if f"/3.{sys.version_info.minor}." not in str(path)
    )


@pytest.mark.skipif(not others(), reason="no interpreter of another Python version was found")
def test_another_python_finds_the_same_digests(tmp_path: Path) -> None:
    script = (
        "import ast, sys\n"
        "from sclip_lab.core import identity\n"
        "for path in sys.argv[1:]:\n"
        "    print(identity._of_tree(ast.parse(open(path, encoding='utf-8').read())))\n"
    )
    (tmp_path / "code.py").write_text(CODE, encoding="utf-8")
    paths = [str(tmp_path / "code.py"), *map(str, sorted((ROOT / "sclip_lab").rglob("*.py")))]
    here = [of_text(Path(path).read_text(encoding="utf-8")) for path in paths]
    for python in others():
        run = [python, "-c", script, *paths]
        there = subprocess.run(
            run, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
        assert there == here, python
