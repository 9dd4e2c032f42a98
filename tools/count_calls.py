"""How much of the library one command enters, counted by a profile hook.

    python tools/count_calls.py                    # one cell on two photos in a folder
    python tools/count_calls.py attention=naclip   # with further overrides
    python tools/count_calls.py --names            # and the functions by file

It prints how many files and functions of ``sclip_lab`` run before the first photo is decoded, and
in the whole command. Lambdas, comprehensions and generators are counted apart, because Python 3.12
runs comprehensions within their function; a file in which only such ran does not count. The bodies
of modules and classes do not count either.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = str(ROOT / "sclip_lab") + "/"
CELL = ("attention=csa", "dataset=two", "tracking=disabled", "progress=false", "device=cpu")
YAML = """# Two photos
_target_: sclip_lab.data.folder.Folder
name: two
root: {folder}
images: images
masks: masks
image_suffix: .png
vocabulary: {folder}/names.txt
ignore_index: 255
"""
FIRST_PHOTO = "evaluation/loader.py", "load"  # the function that decodes a photo


def write_photos(folder: Path) -> Path:
    """Write two photos, masks of two classes and the yaml of a data set; return its conf folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    for name in ("images", "masks", "conf/dataset"):
        (folder / name).mkdir(parents=True)
    for number, photo in enumerate(pixels):
        Image.fromarray(photo).save(folder / f"images/{number}.png")
        Image.fromarray(photo[..., 0] // 128).save(folder / f"masks/{number}.png")
    (folder / "names.txt").write_text("stripes\ndots\n")
    (folder / "conf/dataset/two.yaml").write_text(YAML.format(folder=folder))
    return folder / "conf"


class Counter:
    """A profile hook that keeps every function of the library that is entered, in order.

    Attributes:
        entered: code of each function, in the order of first entry.
        before: how many functions ran before the first photo was decoded; None: no photo was.
    """

    def __init__(self) -> None:
        self.entered: dict[CodeType, None] = {}
        self.before: int | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(LIBRARY):
            return
        file, name = FIRST_PHOTO
        if code.co_name == name and code.co_filename == LIBRARY + file:
            self.before = len(self.entered) if self.before is None else self.before
        if code.co_flags & inspect.CO_NEWLOCALS and code.co_name != "<module>":
            self.entered.setdefault(code)


def main() -> int:
    """Run the command in this process and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of sclip-lab evaluate")
    parser.add_argument("--names", action="store_true", help="list the functions by file")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        places = [f"paths.store={folder}/store", f"hydra.run.dir={folder}/run"]
        places.append(f"--config-dir={write_photos(Path(folder))}")
        from sclip_lab.cli.main import main as command

        threading.setprofile(counter)  # photos are loaded beside the network
        sys.setprofile(counter)
        try:
            exit_code = command(["evaluate", *places, *CELL, *args.overrides])
        finally:
            sys.setprofile(None)
    everything = list(counter.entered)
    for title, codes in (
        ("before the first photo", everything[: counter.before]),
        ("the whole command", everything),
    ):
        functions = [code for code in codes if "<" not in code.co_name]
        files = {code.co_filename for code in functions}
        print(
            f"{title}: {len(functions)} functions in {len(files)} files ({len(codes)} with lambdas,"
        )
        print("    comprehensions and generators)")
    if args.names:
        by_file = defaultdict(list)
        for code in everything[: counter.before]:
            by_file[code.co_filename.removeprefix(LIBRARY)].append(
                code.co_qualname.replace("<locals>.", "")
            )
        for file, names in sorted(by_file.items()):
            print(f"{len(names):4d}  {file}: {', '.join(names)}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
