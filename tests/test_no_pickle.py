"""No read path of the package unpickles, evaluates text, or loads what could run code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sclip_lab"
NEVER = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "marshal.loads"),
    *("eval", "exec", "os.system", "pydoc.locate", "np.fromregex"),
}
ONLY_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def faults(text: str) -> list[str]:
    """Calls in a module's text that may run what a file holds."""
    loads = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        if name in ONLY_WITH:
            option, value = ONLY_WITH[name]
            setting = options.get(option)
            if not (isinstance(setting, ast.Constant) and setting.value is value):
                loads.append(f"line {node.lineno}: {name} without {option}={value}")
        elif name in NEVER:
            loads.append(f"line {node.lineno}: {name}")
    return loads


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_nothing_is_unpickled(path: Path) -> None:
    calls = faults(path.read_text(encoding="utf-8"))
    if path.name == "torchscript.py":  # loads an archive once its sha256 is one of OpenAI's
        calls = [call for call in calls if not call.endswith("torch.jit.load")]
    assert calls == []


@pytest.mark.parametrize(
    "text",
    ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "torch.jit.load(p)"],
)
def test_the_search_finds_them(text: str) -> None:
    assert len(faults(text)) == 1
