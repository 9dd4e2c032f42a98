"""Files of configuration groups in a folder of one's own: text changed, and values changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import sclip_lab as lab
from sclip_lab.config import folders
from sclip_lab.config.folders import conf_dir
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset
from sclip_lab.run.job import make_spec
from tests.hostile.outcome import BAD, changed, ends_well, examples

GROUPS = ("attention", "protocol", "dataset", "experiment", "backbone", "readout", "refinement")
CORPUS = [
    (group, path.read_bytes())
    for group in GROUPS
    for path in sorted((conf_dir() / group).glob("[!_]*.yaml"))
]
ODD = [
    b"", b"---", b"5", b"[1, 2]", b"null", b"a: &a [*a]", b"? [a, b]\n: c", b"{" * 3000,
    b"- " * 2000, b"\xff\xfe", b"a: !!python/object/apply:os.system [ls]", b"a: 1\na: 2",
    b"\x00",
    b"defaults: 5", b"defaults: [nothing]", b"defaults: [/attention: nothing]",
    b"a: " + b"9" * 5000,
    b"_target_: os.system", b"a: ${b}\nb: ${a}", b"a: ${oc.env:HOME}", b"a: ${now:%Y}",
    b"# @package nothing\na: 1", b"hydra: {run: {dir: /}}", b"a: 2001-99-99", b"<<: 5",
    b"a: !!binary x", b"a: &a [x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e]",
]  # fmt: skip


def with_value(content: bytes, data: st.DataObject) -> bytes:
    """A sound file with one value replaced."""
    values: Any = OmegaConf.to_container(OmegaConf.create(content.decode()))
    keys = [key for key in values if key != "defaults"] or ["a"]
    values[data.draw(st.sampled_from(keys))] = data.draw(st.sampled_from(BAD))
    try:
        return OmegaConf.to_yaml(OmegaConf.create(values)).encode()
    except Exception:  # what no yaml can hold
        return content + b"\n" + data.draw(st.sampled_from(ODD))


def use(group: str) -> None:
    if group in ("experiment", "readout", "refinement", "backbone"):
        jobs = sweep([f"{group}=case", "dataset.limit=1"])
        if len(jobs) > 3000:
            raise LabError("many jobs")
        if group != "backbone":
            make_spec(jobs[0])
        return
    loaded = getattr(lab, f"load_{group}")("case")
    if isinstance(loaded, Dataset):
        len(loaded)


@pytest.fixture
def groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "_added", [*folders._added])
    folders.add_folder(folder)
    return folder


@given(
    data=st.data(),
    at=st.integers(0, len(CORPUS) - 1),
    how=st.sampled_from(["texts", "values", "odd"]),
)
@examples(20)
def test_files_of_every_group(groups: Path, data: st.DataObject, at: int, how: str) -> None:
    group, content = CORPUS[at]
    if how == "texts":
        content = data.draw(changed(content))
    elif how == "values":
        content = with_value(content, data)
    else:
        content = data.draw(st.sampled_from(ODD))
    path = groups / group / "case.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        ends_well(lambda: use(group))
    finally:
        path.unlink()
