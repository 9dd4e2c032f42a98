"""What each variant changes, as a table: docs/methods.md, generated from conf/attention.

python -m analysis.methods
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sclip_lab.attention.variant import COMMON, PARTS
from sclip_lab.config.registry import conf_dir, load_group, names
from sclip_lab.core.functions import locate
from sclip_lab.paper import published as paper_numbers

FILE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
TITLE = """# What each method changes

Generated from conf/attention by `python -m analysis.methods`; a test compares the two, so change
the yaml files, not this one. Every value is a key of the variant: on the command line
`attention=csa attention.temperature=0.5`, in Python `lab.load_attention("csa", temperature=0.5)`.

Layers are indices (-1 is the last block) or fractions of depth. *Residual* and *MLP* say whether
the rewritten block keeps them; *stream* whether it takes the trained block's place or adds to a
parallel one; *class token* whether patches may attend to it. A dash: the function replaces the
whole block, and none of this applies.

Formulas, sources, quirks and published numbers follow the tables, in a section for each module:
[variants](#variants), [readouts](#readouts), [refinements](#refinements).
"""
VARIANTS = """## Variants

In the order of their modules. Published numbers are mIoU in points, by the protocol of whoever
published them; the mark says how they were read: F in primary code, README, issue or figure, 2
second-hand, C computed, G a guess. `sclip_lab/paper/paper_sources.csv` has the sources.
"""
DATASETS = [
    "voc21",
    "context60",
    "coco_object",
    "voc20",
    "cityscapes",
    "context59",
    "ade20k",
    "coco_stuff164k",
    "average8",
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
    variants = list(map(row, names("attention")))
    parts = [f"{TITLE}\n{markdown(list(variants[0]), (v.values() for v in variants))}", VARIANTS]
    by_module: dict[Any, list[str]] = {}
    for name in names("attention"):
        by_module.setdefault(idea(name), []).append(name)
    for module in sorted(by_module, key=lambda module: module.__name__):
        parts += [section(module), *map(variant_text, by_module[module])]
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
        parts += [section(module) for module in modules(group)]
    return "\n".join(parts)


def idea(name: str) -> ModuleType:
    """The module that says what is a variant's own: that of a function that replaces the block, or
    else of the last part that it adds to its weights."""
    config = load_group("attention", name)
    function = locate(config["_target_"])
    if next(iter(inspect.signature(function).parameters)) != "block":
        added = [config[key]["_target_"] for key in PARTS if config.get(key)]
        function = locate(added[-1]) if added else function
    return sys.modules[function.__module__]


def modules(group: str) -> list[ModuleType]:
    """Modules of the functions in a group, each once."""
    configs = [load_group(group, name) for name in names(group)]
    steps = [step for config in configs for step in (config, *config.values())]
    functions = [
        locate(step["_target_"])
        for step in steps
        if isinstance(step, Mapping) and "_target_" in step
    ]
    return list(dict.fromkeys(sys.modules[function.__module__] for function in functions))


def section(module: ModuleType) -> str:
    """A module's own words, with its formulas."""
    first, *rest = linked(inspect.cleandoc(module.__doc__ or "")).split("\n")
    text = "\n".join(rest).strip("\n")
    path = module.__name__.replace(".", "/")
    return f"### {first.rstrip('.')}\n\n`{path}.py`\n" + (f"\n{text}\n" if text else "")


def variant_text(name: str) -> str:
    """A variant's header, what its parts do, its presets and its published numbers."""
    config = load_group("attention", name)
    module = idea(name)
    header = " ".join(linked(header_of(conf_dir() / "attention" / f"{name}.yaml")).split())
    lines = [f"**`{name}`** {header}", ""]
    for key in ("_target_", *PARTS):
        target = config[key] if key == "_target_" else (config.get(key) or {}).get("_target_")
        if target and locate(target).__module__ != module.__name__:
            function = locate(target)
            summary = " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].split())
            what = "weights" if key == "_target_" else key
            lines.append(f"- {what}: `{function.__name__}`: {linked(summary)}")
    presets = [p for p in names("protocol") if name in expected(p)]
    if presets:
        links = ", ".join(f"[{p}](protocols.md#{p})" for p in presets)
        lines.append(f"- presets with its published numbers: {links}")
    numbers = published(name)
    if numbers:
        lines += ["", numbers]
    return "\n".join(lines).strip() + "\n"


def expected(protocol: str) -> set[str]:
    """The variants that a protocol has expected scores for, without what is changed in them."""
    return {e["attention"].partition("(")[0] for e in load_group("protocol", protocol)["expected"]}


def published(name: str) -> str:
    """A table of the published mIoU of one variant, in points; empty where there is none."""
    table = paper_numbers.read()
    numbers = table[
        (table["attention"].str.partition("(")[0] == name) & (table["metric"] == "miou")
    ]
    numbers = numbers[numbers["dataset"].isin(DATASETS)]
    if numbers.empty:
        return ""
    rows = []
    for keys, group in numbers.groupby(
        ["method", "attention", "backbone", "protocol", "source", "mark"], sort=False
    ):
        values = dict(zip(group["dataset"], group["value"].astype(float), strict=False))
        cells = [f"{100 * values[d]:.1f}" if d in values else "" for d in DATASETS]
        rows.append([str(key) for key in (keys[0], *keys[2:], *cells)])
    columns = ["as", "network", "protocol", "source", "mark", *DATASETS]
    return markdown(columns, rows)


def linked(text: str) -> str:
    """arXiv numbers as links."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def row(name: str) -> dict[str, str]:
    """One variant's cells by column."""
    config = {**COMMON, **load_group("attention", name)}
    parameters = {key: value for key, value in config.items() if key not in COMMON}
    function = locate(config["_target_"])
    replaces = next(iter(inspect.signature(function).parameters)) == "block"
    settings = {k: "—" if replaces else shown(config[k]) for k in ("residual", "mlp", "stream")}
    return {
        "variant": f"`{name}`",
        "what, and whose": paper(conf_dir() / "attention" / f"{name}.yaml"),
        "layers": shown(config["layers"]),
        "function": call(parameters),
        "residual": settings["residual"],
        "MLP": settings["mlp"],
        "stream": settings["stream"],
        **{part: call(config[part]) if config[part] else "" for part in PARTS},
        "class token": shown(config["class_token"]),
    }


def paper(file: Path) -> str:
    """The first statement of a yaml's header comment, arXiv numbers as links."""
    header = header_of(file)
    stated = PAPER.match(header)
    return linked(" ".join((stated.group() if stated else header).split()))


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
    parameters = [f"{key}={shown(value)}" for key, value in config.items() if key != "_target_"]
    return f"{name}({', '.join(parameters)})"


def shown(value: Any) -> str:
    """A value as yaml writes it; truth values as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return "null" if value is None else str(value)


def markdown(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table; bars within cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
