"""What each protocol fixes, as a table: docs/protocols.md, generated from conf/protocol.

python -m analysis.protocols
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from analysis.methods import call, header_of, markdown, shown
from sclip_lab.config.registry import conf_dir, load_group, names

FILE = Path(__file__).resolve().parent.parent / "docs" / "protocols.md"
TITLE = """# What each protocol fixes

Generated from conf/protocol by `python -m analysis.protocols`; a test compares the two, so change
the yaml files, not this one. A value typed on the command line holds on every data set:
`protocol=clearclip protocol.logit_scale=40`. All use windows
shifted inward at the border, logits averaged where windows overlap, and 80 templates except on
patchwork. In sources: F read in the official code or configs, 2 second-hand, G a guess.
"""
TABLES = re.compile(r"\$\{on_dataset:[^{]*\{(\w+:[\w.:,-]*)\}\}")
KEYS = re.compile(r"(\w+):")
FIELDS = [
    "short_side",
    "crop_size",
    "stride",
    "views",
    "logit_scale",
    "prob_threshold",
    "area_threshold",
    "readout",
    "refinement",
]


def document() -> str:
    """The whole of docs/protocols.md."""
    loaded = {name: load_group("protocol", name) for name in names("protocol")}
    columns = ["protocol", *(field.replace("_", " ") for field in FIELDS), "others"]
    values = [
        [f"`{name}`", *(_cell(field, config[field]) for field in FIELDS), _others(config)]
        for name, config in loaded.items()
    ]
    return "\n".join(
        [TITLE, markdown(columns, values), *(_section(*item) for item in loaded.items())]
    )


def _section(name: str, config: dict[str, Any]) -> str:
    changes = []
    text = (conf_dir() / "protocol" / f"{name}.yaml").read_text(encoding="utf-8")
    # Data sets of one's own that a protocol has values for come behind those with a yaml.
    keys = {key for table in TABLES.findall(text) for key in KEYS.findall(table)}
    for dataset in [*names("dataset"), *sorted(keys - set(names("dataset")))]:
        fields = load_group("protocol", name, dataset=dataset)
        differing = [
            f"{key} {_cell(key, fields[key])}"
            for key, usual in config.items()
            if fields[key] != usual
        ]
        if differing:
            changes.append([f"`{dataset}`", ", ".join(differing)])
    source = " ".join(header_of(conf_dir() / "protocol" / f"{name}.yaml").split())
    return f"## {name}\n\n{source}\n\n{markdown(['data set', 'values of its own'], changes)}"


def _others(config: dict[str, Any]) -> str:
    """Fields without a column whose usual value is not that of every protocol."""
    usual = load_group("protocol", "unified")
    skipped = {"name", "expected", *FIELDS}
    changes = [
        f"{k} {_cell(k, v)}" for k, v in config.items() if k not in skipped and v != usual[k]
    ]
    return ", ".join(changes)


def _cell(field: str, value: Any) -> str:
    if field == "views" and value:
        return _views(value)
    return call(value) if isinstance(value, dict) else shown(value)


def _views(views: dict[str, Any]) -> str:
    """Weight, change and flip of each view: ``2 photo, 1 blur(size=11, sigma=5.0), 1 vertical``."""
    parts = []
    for view in views.values():
        words = [shown(view.get("weight", 1)), *(call(c) for c in [view.get("change")] if c)]
        words += [view["flip"]] if view.get("flip") else []
        parts.append(" ".join(words if len(words) > 1 else [*words, "photo"]))
    return ", ".join(parts)


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
