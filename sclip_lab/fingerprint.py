"""A digest of the code that numbers come out of, so that a changed formula is a new cell."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

# Everything between a photo and its confusion counts that is not named in a yaml.
CORE = (
    "sclip_lab.network.block",
    "sclip_lab.network.context",
    "sclip_lab.network.depth",
    "sclip_lab.attention.variant",
    "sclip_lab.network.backbone",
    "sclip_lab.network.loading",
    "sclip_lab.segmentation.photos",
    "sclip_lab.results.metrics",
    "sclip_lab.network.position_embedding",
    "sclip_lab.segmentation.prompts",
    "sclip_lab.segmentation.protocol",
    "sclip_lab.segmentation.decoder",
    "sclip_lab.segmentation.tree",
    "sclip_lab.segmentation.views",
    "sclip_lab.segmentation.windows",
)


def digest(modules: Iterable[str] = ()) -> str:
    """sha256 of the code of the core, of the given modules and of what they import from this
    package or from their own; comments, docstrings and the layout of the text do not count."""
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
    source = _source(module)
    if source is None:
        return "no source", ()
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        imported.update(_imports(node, module))
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body[:1] = [] if len(body) > 1 else [ast.Pass()]
    code = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
    return code, tuple(sorted(imported))


def _imports(node: ast.AST, importer: str) -> list[str]:
    """Modules of this package and of the importer's that a statement imports, or imports from."""
    if isinstance(node, ast.Import):
        named = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        above = importer.split(".")[: -node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        named = [source, *(f"{source}.{alias.name}" for alias in node.names)]
    else:
        return []
    packages = ("sclip_lab.", f"{importer.split('.')[0]}.")
    return [name for name in named if name.startswith(packages) and _source(name)]


def _source(module: str) -> Path | None:
    """A module's file, without importing anything; None for other names."""
    name, *below = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None
