"""The command line: what it writes and prints, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.cli.main import main
from tests import photos as photo_files
from tests.running import succeed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return photo_files.write(tmp_path / "photos", [(64, 80)]) / "images/0.jpg"


def test_segment_warns_of_words_that_the_embedded_network_never_saw(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.png"
    with pytest.warns(UserWarning, match="knows 16 words, not grass, lawn:"):
        assert main(["segment", str(photo), "stripes", "grass,lawn", "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert "stripes" not in output.err.partition("It knows")[0]
    assert (tmp_path / "labels_legend.png").is_file()


def test_segment(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new/folder/map.png"
    names = ["stripes", "dots, points", "checks"]
    assert main(["segment", str(photo), *names, "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.mode == "P"
        labels = np.array(picture)
    assert labels.shape == (64, 80)
    printed = capsys.readouterr().out
    for index, name in enumerate(names):
        assert f"{name:<30} {100 * (labels == index).mean():5.1f} %" in printed
    assert str(out) in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "cssa"], "unknown attention 'cssa'; did you mean csa"),
        (["--backbone", "ViT-B-16-quickgel"], "did you mean ViT-B-16-quickgelu"),
        (["--protocol", "sclp"], "did you mean sclip"),
    ],
)
def test_unknown_names(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["segment", str(photo), "stripes", *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_no_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(tmp_path / "none.jpg"), "stripes"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "none.jpg: no such file" in line


def test_learn_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sclip_lab as lab

    out = tmp_path / "projection.safetensors"
    steps = ["--images", "2", "--steps", "2"]
    assert main(["learn-projection", *steps, "--out", str(out)]) == 0
    assert f"attention.projection_file={out}" in capsys.readouterr().out
    lab.load_attention("csa_learned", projection_file=str(out))
    outcome = succeed(tmp_path, "attention=csa_learned", f"attention.projection_file={out}")
    assert f"csa_learned(projection_file={out}) on patchwork: mIoU" in outcome.out


def test_data_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCLIP_LAB_DATA", "elsewhere")  # what --data sets ends with the test
    assert main(["data", "list", "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("patchwork", "voc21", "coco_panoptic20"):
        assert name in printed
    assert str(tmp_path) in printed


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for command in ("evaluate", "data", "segment", "learn-projection"):
        assert command in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["experiments/evaluate.py"],
        ["-m", "sclip_lab.cli.main", "evaluate"],
    ],
)
def test_evaluate_as_a_process(tmp_path: Path, command: list[str]) -> None:
    """Both entry points; one line on stderr for a bad value, and its exit code."""
    overrides = [
        "dataset.limit=2", "tracking=disabled", "progress=false", "diagnostics=none",
        f"paths.store={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    run = [sys.executable, *command, *overrides]
    good = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert "csa on patchwork: mIoU" in good.stdout
    assert (tmp_path / "run/result.json").is_file()
    bad = subprocess.run(
        [*run, "attention.layers=[99]"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    [line] = bad.stderr.splitlines()
    assert line.startswith("error: attention 'csa'")


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["data", "list"]])
def test_help_and_listings_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from sclip_lab.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'pandas', 'wandb', 'matplotlib', 'open_clip'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "loaded: []"
