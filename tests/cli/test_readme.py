"""The commands of README.md, as they stand there: all on one store, and then its report.

What needs weights or photos that no registry here has is composed, not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sclip_lab.cli import main
from sclip_lab.config import folders
from sclip_lab.core import functions
from tests import photos

ROOT = Path(__file__).parents[2]
# Of each evaluation, so that all lines together take a minute; what a line says itself comes later.
FEW = ["dataset.limit=2", "tracking=disabled", "diagnostics=none"]
SMALL = ["dataset.height=64", "dataset.width=80"]  # of patchwork alone
TUNE = ["--trials", "2", "--photos", "4", "dataset.limit=4"]
# Beginnings of lines, and why a test cannot run them.
NOT_RUN = {
    "git clone": "clones",
    "wandb sync": "needs W&B's server",
    "sclip-lab data coco_panoptic20": "downloads (a test marked network does)",
    "sclip-lab data prepare": "needs downloads (tests/data/test_prepare.py has files like them)",
    "sclip-lab data verify cityscapes": "needs downloads",
    "sclip-lab paper": "takes minutes (tests/paper)",
}


def commands() -> list[str]:
    """One line each of all bash blocks, without comments."""
    text = (ROOT / "README.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines if line]


def words_of(line: str) -> list[str]:
    """What a line hands to ``sclip-lab``, with a name for what the reader has to fill in."""
    line = re.sub(r"<[^>]*>", "file.pth", line).replace(
        "python experiments/evaluate.py", "evaluate"
    )
    line = line.removeprefix("sclip-lab ").replace("~", str(Path.home()))
    return shlex.split(line)


def is_composed_only(line: str) -> bool:
    """Whether an evaluation needs weights, photos or a cluster that a test does not have."""
    return bool(re.search("pretrained=openai|checkpoint=<|launcher=slurm", line))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder and home, with a folder of photos in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in (functions.VARIABLE, folders.VARIABLE):
        monkeypatch.setenv(variable, "")
    photo_root = photos.write(tmp_path / "made")
    for folder in ("images", "masks"):
        (tmp_path / "photos_of_mine" / folder).mkdir(parents=True)
        (photo_root / folder).rename(tmp_path / "photos_of_mine" / folder / "val")
    return tmp_path


def test_lines_that_need_weights_or_a_cluster_compose(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in commands() if is_composed_only(line) and "sclip-lab" not in line]
    assert len(lines) == 3
    for line in lines:
        words = [w for w in words_of(line) if w != "-m" and "," not in w]
        words = [w for w in words if not w.startswith("experiment=")]  # sweeps need -m
        assert main.main([*words, "--cfg=job"]) == 0, line
        GlobalHydra.instance().clear()
        assert "pretrained" in capsys.readouterr().out


def test_lines_of_make_name_targets() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE))
    for target in {one or other for one, other in targets}:
        process = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_all_lines_in_a_row_on_one_store_then_its_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = 0
    for line in commands():
        if line.startswith(("make ", *NOT_RUN)) or is_composed_only(line):
            continue
        words = words_of(line)
        if words[0] == "evaluate":
            needs_photos = any(word == "dataset=photos_of_mine" for word in words)
            flags = [word for word in words[1:] if word.startswith("-")]
            rest = [word for word in words[1:] if not word.startswith("-")]
            words = ["evaluate", *flags, *FEW, *([] if needs_photos else SMALL), *rest]
        elif words[0] == "tune":
            words += [*TUNE, *SMALL]
        elif "dataset=voc21" in words:  # of which the store has no cell
            words[words.index("dataset=voc21")] = "dataset=patchwork"
        code = main.main(words)
        GlobalHydra.instance().clear()
        printed = capsys.readouterr()
        assert code == 0, f"{line}\n{printed.err}"
        ran += 1
    assert ran >= 20
    assert main.main(["report", "results/store", "--out", "last"]) == 0
    page = (here / "last/index.html").read_text()
    assert re.findall(r"scores: (.*)</h2>", page) == ["patchwork", "photos_of_mine"]
    assert os.path.getsize("last/scores_patchwork.csv") > 1000
