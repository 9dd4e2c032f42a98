"""A digest of the code that numbers come out of, so that a changed formula is a new cell."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# Everything between a photo and its confusion counts that is not named in a yaml.
CORE = (
    "sclip_lab.attention.block",
    "sclip_lab.attention.context",
    "sclip_lab.attention.layers",
    "sclip_lab.attention.variant",
    "sclip_lab.backbone",
    "sclip_lab.images",
    "sclip_lab.metrics",
    "sclip_lab.position_embedding",
    "sclip_lab.prompts",
    "sclip_lab.protocol",
    "sclip_lab.readout",
    "sclip_lab.tree",
    "sclip_lab.windows",
)


def digest(modules: Iterable[str] = ()) -> str:
    """sha256 of the code of the core, of the given modules and of what they import from this
    package; comments, docstrings and the layout of the text do not count."""
    total, found, waiting = hashlib.sha256(), set[str](), [*CORE, *modules]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _code(module)[1]
    for module in sorted(found):
        total.update(f"{module} {_code(module)[0]}".encode())
    return total.hexdigest()


@cache
def _code(module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code, and the modules of this package that it imports from."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return "no source", ()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sclip_lab."):
            imported.add(node.module)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body[0] = ast.Expr(ast.Constant(""))
    code = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
    return code, tuple(sorted(name for name in imported if name))
