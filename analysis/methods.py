"""What each variant changes, as a table: docs/methods.md, generated from conf/attention.

python -m analysis.methods
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sclip_lab.app.registry import conf_dir, load_group, names
from sclip_lab.attention.variant import COMMON, LEADING
from sclip_lab.call import locate

FILE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
TITLE = """# What each method changes

Generated from conf/attention by `python -m analysis.methods`; a test compares the two, so change
the yaml files, not this one. Every value is a key of the variant: on the command line
`attention=csa attention.temperature=0.5`, in Python `lab.load_attention("csa", temperature=0.5)`.

Layers are indices (-1 is the last block) or fractions of depth. *Residual* and *MLP* say whether
the rewritten block keeps them; *stream* whether it takes the trained block's place or adds to a
parallel one; *class token* whether patches may attend to it. A dash: the function replaces the
whole block, and none of this applies.
"""
COLUMNS = [
    "variant",
    "what, and whose",
    "layers",
    "function",
    "residual",
    "MLP",
    "stream",
    "prior",
    "mix",
    "repair",
    "entry",
    "hidden",
    "class token",
]
OTHERS = {
    "readout": """## Readouts

From patch embeddings to patch logits: `readout=surgery`, or a protocol's own. Any goes with any
variant.

""",
    "refinement": """## Refinements

Of stitched logits or of labels, at the photo's size: `refinement=pamr`, or a protocol's own.

""",
}
# A header's first statement ends with the paper, if it names one.
PAPER = re.compile(r".*?(?:arXiv \d{4}\.\d{5}|(?:ICCV|CVPR|ECCV|WACV) 20\d\d$)", re.M | re.S)


def document() -> str:
    """The whole of docs/methods.md."""
    parts = [f"{TITLE}\n{markdown(COLUMNS, map(row, names('attention')))}"]
    for group, words in OTHERS.items():
        rows = [
            [
                f"`{name}`",
                paper(conf_dir() / group / f"{name}.yaml"),
                call(config) if config else "",
            ]
            for name in names(group)
            for config in [load_group(group, name)]
        ]
        parts.append(words + markdown([group, "what, and whose", "function"], rows))
    return "\n".join(parts)


def row(name: str) -> list[str]:
    """One variant's cells, in the order of ``COLUMNS``."""
    config = {**COMMON, **load_group("attention", name)}
    own = {key: value for key, value in config.items() if key not in COMMON}
    function = locate(config["_target_"])
    replaces = next(iter(inspect.signature(function).parameters)) == "block"
    kept = ["—" if replaces else shown(config[key]) for key in ("residual", "mlp", "stream")]
    parts = [call(config[key]) if config[key] else "" for key in LEADING]
    return [
        f"`{name}`",
        paper(conf_dir() / "attention" / f"{name}.yaml"),
        shown(config["layers"]),
        call(own),
        *kept,
        *parts,
        shown(config["class_token"]),
    ]


def paper(file: Path) -> str:
    """The first statement of a yaml's header comment, arXiv numbers as links."""
    header = header_of(file)
    stated = PAPER.match(header)
    text = " ".join((stated.group() if stated else header).split())
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def header_of(file: Path) -> str:
    """The comment lines at the top of a yaml, without their marks and without Hydra's."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("# @package")]
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.lstrip("# ") for line in lines[:end])


def call(config: Mapping[str, Any]) -> str:
    """A function of a yaml with its parameters, ``gaussian(sigma=5.0)``, or several in order."""
    if "_target_" not in config:
        steps = [
            call(v) if isinstance(v, Mapping) else f"{k}={shown(v)}" for k, v in config.items()
        ]
        return ", ".join(steps)
    name = str(config["_target_"]).rpartition(".")[2]
    given = [f"{key}={shown(value)}" for key, value in config.items() if key != "_target_"]
    return f"{name}({', '.join(given)})"


def shown(value: Any) -> str:
    """A value as yaml writes it; truth values as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return "null" if value is None else str(value)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; bars within cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
