"""What a search costs, and whether it can fool itself: ``python -m benchmarks.search``.

The cost: trials a minute, blocks run with and without the shared trunk, and one batch fused against
its trials one by one. The honesty: searches on scenes whose masks are shuffled among the photos,
where no parameter is better than another, so that the difference on the test split must be sure
in about one run of twenty.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import sclip_lab as lab
from sclip_lab.data.base import Sample
from sclip_lab.data.patchwork import Patchwork
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.run import tune

WORDS = ("attention=csa", "attention.temperature=0.1..4", "attention.layers=last 1,last 2")


class Shuffled(Patchwork):
    """Patchwork with each photo beside another photo's mask.

    Args:
        shuffle: seed of the permutation.
        limit, sample, seed, split, height, width, name: as of Patchwork.
    """

    def __init__(
        self,
        shuffle: int = 0,
        split: str = "test",
        limit: int = 64,
        height: int = 128,
        width: int = 160,
        name: str = "patchwork",
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, limit, height, width, name, sample, seed)
        self.order = np.random.default_rng(shuffle).permutation(len(self))

    def __getitem__(self, index: int) -> Sample:
        photo, other = super().__getitem__(index), super().__getitem__(int(self.order[index]))
        return Sample(photo.name, photo.image, other.mask)


def null_run(seed: int, photos: int, trials: int, folder: Path) -> dict[str, float]:
    """One search on shuffled masks; the test difference (x100) and its p."""
    target = f"{__name__ if __name__ != '__main__' else 'benchmarks.search'}.Shuffled"
    words = [
        *WORDS, f"dataset._target_={target}",
        f"dataset.limit={photos}", f"+dataset.shuffle={seed}", f"paths.store={folder}",
    ]  # fmt: skip
    lab.allow(target.rpartition(".")[0])
    made = tune.search(words, trials=trials, batch=trials, seed=seed)
    gap = made.difference
    return {"difference": round(100 * float(gap["difference"]), 2), "p": round(float(gap["p"]), 4)}


def cost(trials: int, folder: Path) -> dict[str, float]:
    """A search on the scenes as they are, and its last batch fused against one by one."""
    made = tune.search([*WORDS, f"paths.store={folder / 'search'}"], trials=trials)
    fixed, values = list(WORDS[:1]), [trial.values for trial in made.trials[:10]]
    specs = [tune._spec([*fixed, *(f"{k}={v}" for k, v in each.items())]) for each in values]
    evaluate(specs[:1], folder / "warm", progress=False)
    seconds = {}
    start = time.perf_counter()
    evaluate(specs, folder / "fused", progress=False)
    seconds["fused"] = time.perf_counter() - start
    start = time.perf_counter()
    for spec in specs:
        evaluate([spec], folder / "apart", progress=False)
    seconds["one_by_one"] = time.perf_counter() - start
    return {
        "trials_a_minute": round(60 * trials / made.seconds, 1),
        "blocks": made.blocks,
        "blocks_without_sharing": made.apart,
        **{f"batch_of_10_{name}_s": round(value, 2) for name, value in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="searches on shuffled masks")
    parser.add_argument("--photos", type=int, default=32, help="of both splits in these")
    parser.add_argument("--trials", type=int, default=10, help="in each of these")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            null_run(seed, args.photos, args.trials, Path(folder, f"{seed}"))
            for seed in range(args.runs)
        ]
        sure = sum(run["p"] < 0.05 for run in runs)
        shuffled = {"runs": len(runs), "sure": sure, "p": [run["p"] for run in runs]}
        measured = {"cost": cost(30, Path(folder)), "shuffled_masks": shuffled}
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
