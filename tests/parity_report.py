"""All comparisons with official outputs on the set in a folder: ``python -m tests.parity_report``.

One line a file: the comparison that comes closest to its tolerance, ok or not. Exit status 1 if
one is not, if a file has no comparison, or one asks for an array that its file lacks, if an array
is neither compared nor declared as what a comparison starts from, or if one has NaN. ``make parity
VECTORS=<folder>`` runs it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import torch

from tests.parity.compare import compare, registered
from tests.parity.vector_set import VectorSet, folder_set


def line(toy: VectorSet, name: str, verbose: bool = False) -> tuple[str, bool]:
    """What is said of one file, and whether it is as it should be."""
    if name not in registered():
        return f"{name:28} NO COMPARISON", False
    try:
        compared = compare(toy, name)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return f"{name:28} FAILED: {type(error).__name__}: {error}", False
    if not compared:
        return f"{name:28} NOTHING COMPARED", False
    worst = max(compared, key=lambda one: one.error / one.tolerance if one.tolerance else one.error)
    bad = [one for one in compared if not one.ok]
    words = [
        f"{name:28} {'NOT OK' if bad else 'ok':6}",
        f"{len(compared):3} arrays, largest {worst.error:.2e} of {worst.tolerance:.0e}",
        f"in {worst.array}",
    ]
    if verbose or bad:
        words += [f"\n    {one}" for one in (compared if verbose else bad)]
    return " ".join(words), not bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with .npz files, or with folders of them")
    parser.add_argument("--only", nargs="*", help="names of files without .npz")
    parser.add_argument("--verbose", action="store_true", help="every array, and tracebacks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    toy = folder_set(options.folder)
    names = [name for name in toy.files if not options.only or name in options.only]
    good = 0
    for name in names:
        text, ok = line(toy, name, options.verbose)
        print(text, flush=True)
        good += ok
    absent = sorted(set(registered()) - set(toy.files))
    print(f"{good} of {len(names)} files ok")
    if absent and not options.only:
        print(f"comparisons without a file here: {', '.join(absent)}")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
