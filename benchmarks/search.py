"""What a search costs, and whether it can fool itself: ``python -m benchmarks.search``.

The cost: trials a minute, blocks run with and without the shared trunk, and one batch fused against
its trials one by one. The honesty, in two kinds of searches:

- ``tickets``: the parameter is the ticket of a lottery that gives each window one of two
  temperatures. No ticket is better than another, so p < .05 on the test split must come in one run
  of twenty.
- ``shuffled``: masks are shuffled among the photos. Classes keep their frequencies, so a parameter
  whose predictions are spread more evenly over the classes can still be a little better here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

import sclip_lab as lab
from sclip_lab.data.base import Sample
from sclip_lab.data.patchwork import Patchwork
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.run import tune

MODULE = "benchmarks.search"  # this module's name in yaml files; __name__ may be __main__
PARTS = ("cost", "tickets", "shuffled")
TEMPERATURES = (0.25, 4.0)  # of `lottery`
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


def lottery(ctx: Any, ticket: int = 0) -> Tensor:
    """CSA, for each window at one of two temperatures, which the ticket and the window decide."""
    draws = [
        hashlib.sha256(window.numpy().tobytes() + str(ticket).encode()).digest()[0] % 2
        for window in ctx.query
    ]
    cold, hot = (
        sum(ctx.softmax(ctx.scores(part, part, heat)) for part in (ctx.query, ctx.key))
        for heat in TEMPERATURES
    )
    return torch.where(torch.tensor(draws, dtype=torch.bool)[:, None, None, None], cold, hot)


def null_run(kind: str, seed: int, photos: int, trials: int, folder: Path) -> dict[str, float]:
    """One search where there is nothing to find: the test difference (x100) and its p."""
    words = [f"dataset.limit={photos}", "dataset.height=64", "dataset.width=80"]
    words.append(f"paths.store={folder}")
    if kind == "shuffled":
        words += [*WORDS, f"dataset._target_={MODULE}.Shuffled", f"+dataset.shuffle={seed}"]
    else:  # each run has a default of its own, so that runs are independent
        conf = folder / "conf"
        (conf / "attention").mkdir(parents=True, exist_ok=True)
        head = "# A ticket\ndefaults: [_variant, _self_]\n"
        text = f"{head}_target_: {MODULE}.lottery\nticket: {100 * seed}\n"
        (conf / f"attention/lottery_{seed}.yaml").write_text(text)
        lab.allow(MODULE, conf=conf)
        tickets = f"{100 * seed + 1}..{100 * seed + 99}"
        words += [f"attention=lottery_{seed}", f"attention.ticket={tickets}"]
    search = tune.search(words, trials=trials, batch=trials, seed=seed)
    gap = search.difference
    return {"difference": round(100 * float(gap["difference"]), 2), "p": round(float(gap["p"]), 4)}


def honesty(kind: str, runs: int, photos: int, trials: int, folder: Path) -> dict[str, Any]:
    """Run searches with nothing to find; count those with p < .05, with a 95 % interval."""
    lab.allow(MODULE)
    outcomes = [null_run(kind, seed, photos, trials, folder / kind) for seed in range(runs)]
    sure = [run for run in outcomes if run["p"] < 0.05]
    share = binomtest(len(sure), runs).proportion_ci()
    return {
        "runs": runs,
        "sure": len(sure),
        "sure_and_better": sum(run["difference"] > 0 for run in sure),
        "share_95": [round(float(share.low), 3), round(float(share.high), 3)],
        "p": [run["p"] for run in outcomes],
    }


def cost(trials: int, folder: Path) -> dict[str, float]:
    """Time a search on the scenes as they are, and ten of its trials fused and one by one."""
    search = tune.search([*WORDS, f"paths.store={folder / 'search'}"], trials=trials)
    fixed, values = list(WORDS[:1]), [trial.values for trial in search.trials[:10]]
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
        "trials_a_minute": round(60 * trials / search.seconds, 1),
        "blocks": search.blocks,
        "blocks_without_sharing": search.apart,
        **{f"batch_of_10_{name}_s": round(value, 2) for name, value in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=60, help="searches with nothing to find")
    parser.add_argument("--photos", type=int, default=32, help="of both splits in these")
    parser.add_argument("--trials", type=int, default=8, help="in each of these")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            measured = (
                cost(30, Path(folder))
                if part == "cost"
                else honesty(part, args.runs, args.photos, args.trials, Path(folder))
            )
            print(json.dumps({part: measured}, indent=1), flush=True)


if __name__ == "__main__":
    main()
