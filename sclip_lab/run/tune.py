"""A search that cannot fool itself: trials see the train split, one comparison sees the test.

Optuna proposes trials in batches (TPE). A batch is evaluated in fused passes, so that its trials
share every block that none of them rewrites, first on about 8 photos of the train split, then on
32, then on all; after each stage the lower half is given up (successive halving: Jamieson and
Talwalkar, 2016). In the end the best trial and the default are evaluated on the test split, once,
and compared in pairs.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sclip_lab import results
from sclip_lab.config import sweeper
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Part
from sclip_lab.evaluation.loop import Unfinished, evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.reading import SHORT
from sclip_lab.run.job import make_spec
from sclip_lab.segmentation import tree

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
STAGES = (8, 32)  # photos, about, before all of them
DECADE = 10  # a positive range that is so many times as wide is searched on a log scale
DIGITS = 4  # of a proposed number, so that the value that is shown can be typed
_RANGE = re.compile(r"(-?[\d.]+(?:e-?\d+)?)\.\.(-?[\d.]+(?:e-?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole numbers where both are typed so."""

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        return self.low > 0 and self.high >= DECADE * self.low

    def propose(self, trial: optuna.Trial, key: str) -> str:
        if self.whole:
            return str(trial.suggest_int(key, int(self.low), int(self.high), log=self.log))
        return f"{trial.suggest_float(key, self.low, self.high, log=self.log):.{DIGITS}g}"

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (log scale)' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """A few values, as Hydra reads them."""

    values: tuple[str, ...]

    def propose(self, trial: optuna.Trial, key: str) -> str:
        return str(trial.suggest_categorical(key, self.values))

    def __str__(self) -> str:
        return ", ".join(self.values)


Space = Mapping[str, Range | Choices]


def parse(words: Sequence[str]) -> tuple[dict[str, Range | Choices], list[str]]:
    """What is searched, by key, and the overrides that stay fixed.

    >>> parse(["attention=csa", "attention.temperature=0.5..2"])
    ({'attention.temperature': Range(low=0.5, high=2.0, whole=False)}, ['attention=csa'])

    Raises:
        LabError: a word without "=", a range whose ends are wrong, or nothing to search.
    """
    space: dict[str, Range | Choices] = {}
    fixed = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise LabError(f"{word}: write KEY=LOW..HIGH, KEY=VALUE,VALUE or KEY=VALUE")
        if match := _RANGE.fullmatch(value):
            space[key] = _range(word, *match.groups())
            continue
        values = [_quoted(part) for part in _split(value)]
        if len(values) > 1:
            space[key] = Choices(tuple(values))
        else:
            fixed.append(f"{key}={values[0]}")
    if not space:
        raise LabError(
            "nothing to search: give a range such as attention.temperature=0.1..4, or values such "
            "as attention.layers='last 1','last 2'"
        )
    return space, fixed


def _range(word: str, low: str, high: str) -> Range:
    try:
        ends = float(low), float(high)
    except ValueError:
        raise LabError(f"{word}: '{low}' and '{high}' must be numbers") from None
    if ends[0] >= ends[1]:
        raise LabError(f"{word}: the lower end must be below the upper one")
    return Range(*ends, whole=all(re.fullmatch(r"-?\d+", end) for end in (low, high)))


def _split(value: str) -> list[str]:
    """The parts of a text between commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for sign in value:
        if sign == "," and not depth and not quote:
            parts.append("")
            continue
        parts[-1] += sign
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in ")}]")
    return parts


def _quoted(value: str) -> str:
    """A value with blanks in the quotes that Hydra wants."""
    return f"'{value}'" if " " in value and value[0] not in "'\"[{" else value


class Half(Part):
    """The photos of a data set without a train split that are for choosing, or those for reporting.
    The sha256 of a photo's name says its half, so that new photos move no old one."""

    def __init__(self, whole: Dataset, train: bool) -> None:
        super().__init__(whole, None, None, 0)
        self.split = f"{'train' if train else 'test'} half by name digest"
        chosen = [
            (name, place)
            for name, place in zip(self._names, self._places, strict=True)
            if (hashlib.sha256(name.encode()).digest()[0] % 2 == 0) == train
        ]
        self._names, self._places = [name for name, _ in chosen], [place for _, place in chosen]


@dataclass
class Trial:
    """One proposal.

    Attributes:
        number: from 0. values: by key, as they can be typed. label: of its variant.
        photos: of the train split that it was evaluated on. score: its mIoU on these, a fraction.
        state: "finished", "given up" (the lower half of its batch) or "failed: why".
    """

    number: int
    values: dict[str, str]
    label: str = ""
    photos: int = 0
    score: float = float("nan")
    state: str = "failed"


@dataclass
class Search:
    """What a search has done.

    Attributes:
        space: what was searched. trials: all of them.
        best, default: cells on the test split.
        train, test: the data sets in words, with their number of photos.
        df: rows of both cells on the test split. usual: mIoU of the default on the train split.
        seconds: that all trials took. blocks, apart: that their passes ran on one photo, and would
            have run without sharing.
    """

    space: Space
    best: Spec
    default: Spec
    train: str
    test: str
    df: pd.DataFrame
    usual: float
    seconds: float
    trials: list[Trial] = field(default_factory=list)
    blocks: int = 0
    apart: int = 0

    @property
    def winner(self) -> Trial:
        """The finished trial with the highest score on the train split."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return max(finished, key=lambda trial: trial.score)

    def table(self) -> pd.DataFrame:
        """One row per trial, the best first: values, photos, mIoU on train (a fraction), state."""
        rows = [
            {"trial": trial.number, **trial.values, "photos": trial.photos, "mIoU": trial.score}
            | {"state": trial.state}
            for trial in self.trials
        ]
        order = ["photos", "mIoU"]
        return pd.DataFrame(rows).sort_values(order, ascending=False, ignore_index=True)

    @cached_property
    def difference(self) -> pd.Series:
        """The row of `results.difference` of best and default on the test split."""
        keys = (self.best.key[:SHORT], self.default.key[:SHORT])
        return results.difference(self.df, *keys).iloc[0]


def search(
    words: Sequence[str],
    trials: int = 30,
    batch: int = 10,
    seed: int = 0,
    photos: int = 256,
    train: Sequence[str] = ("dataset.split=train",),
) -> Search:
    """Search on the train split, then compare the best trial with the default on the test split.

    Args:
        words: overrides of ``sclip-lab evaluate``, of which some have a range or several values.
            What they say of the data set is the test split.
        trials: how many. batch: evaluated together. seed: of the proposals.
        photos: of the train split at most, drawn by ``seed``.
        train: overrides that make the train split of the test split.

    Raises:
        LabError: nothing to search, unknown keys, no trial that can be evaluated, the train split
            is the test split, or Optuna is not installed.
    """
    space, fixed = parse(words)
    if trials < 1 or batch < 1 or photos < 1:
        raise LabError("trials, batch and photos must be 1 or more")
    default = _spec(fixed)
    if default.oracle:
        raise LabError(f"{default.label} reads ground truth: an oracle has no best setting")
    chosen_on, reported_on = _splits(default.dataset, fixed, train, photos, seed)
    default = replace(default, dataset=reported_on)
    store = Path(str(sweeper.sweep(fixed)[0].paths.store))
    study = _study(seed)
    begin, made = time.perf_counter(), Search(
        space, default, default, _words(chosen_on), _words(reported_on), pd.DataFrame(), 0.0, 0.0
    )  # fmt: skip
    while len(made.trials) < trials:
        count = min(batch, trials - len(made.trials))
        _run_batch(made, [study.ask() for _ in range(count)], study, fixed, chosen_on, store)
    made.seconds = time.perf_counter() - begin
    if not any(trial.state == "finished" for trial in made.trials):
        raise LabError(f"no trial could be evaluated: {made.trials[0].state}")
    values = [f"{key}={value}" for key, value in made.winner.values.items()]
    made.best = replace(_spec([*fixed, *values]), dataset=reported_on)
    usual = replace(default, dataset=chosen_on)
    made.usual = float(results.miou(evaluate([usual], store, progress=False)).iloc[0])
    made.df = evaluate([made.best, default], store, progress=False)
    return made


def _study(seed: int) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise LabError("sclip-lab tune needs Optuna: pip install 'sclip-lab[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A batch is proposed before any of it is scored: the constant liar keeps its trials apart.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _spec(overrides: Sequence[str]) -> Spec:
    (config,) = sweeper.sweep(overrides)
    return make_spec(config)


def _words(dataset: Dataset) -> str:
    words = [dataset.name, getattr(dataset, "split", ""), getattr(dataset, "selection", "")]
    return ", ".join([*filter(None, words), f"{len(dataset)} photos"])


def _splits(
    dataset: Dataset, fixed: Sequence[str], train: Sequence[str], photos: int, seed: int
) -> tuple[Dataset, Dataset]:
    """Photos to choose on and photos to report on, which must not be the same."""
    try:
        chosen_on = _spec([*fixed, *train]).dataset
    except LabError as error:
        log.info(
            "%s has no train split (%s): its photos are divided by the digest of their names",
            dataset.name,
            error,
        )
        halves = Half(dataset, True), Half(dataset, False)
        if not all(map(len, halves)):
            raise LabError(
                f"{dataset.name}: {len(dataset)} photos are too few to divide"
            ) from error
        chosen_on, dataset = halves
    if chosen_on.key == dataset.key:
        raise LabError(
            f"{' '.join(train)} gives the photos that the test is on: name another train split"
        )
    drawn = Part(chosen_on, None, photos, seed)
    return (drawn if len(drawn) < len(chosen_on) else chosen_on), dataset


def _run_batch(
    made: Search,
    proposals: Sequence[optuna.Trial],
    study: optuna.Study,
    fixed: Sequence[str],
    dataset: Dataset,
    store: Path,
) -> None:
    """Evaluate some proposals in stages, and tell the study what came of them."""
    from optuna.trial import TrialState

    alive: list[tuple[optuna.Trial, Trial, Spec]] = []
    for proposal in proposals:
        values = {key: part.propose(proposal, key) for key, part in made.space.items()}
        trial = Trial(len(made.trials), values)
        made.trials.append(trial)
        try:
            spec = _spec([*fixed, *(f"{key}={value}" for key, value in values.items())])
        except LabError as error:
            trial.state = f"failed: {error}"
            study.tell(proposal, state=TrialState.FAIL)
            continue
        trial.label = spec.label
        alive.append((proposal, trial, replace(spec, dataset=dataset)))
    counts = []
    for stride in _strides(len(dataset)):
        alive = _evaluate(made, alive, study, store, stride)
        counts.append(f"{len(alive)} on {len(dataset.names[::stride])}")
        if stride > 1 and len(alive) > 1:
            ordered = sorted(alive, key=lambda one: -one[1].score)
            alive = ordered[: -(-len(ordered) // 2)]
            for proposal, trial, _ in ordered[len(alive) :]:
                trial.state = "given up"
                study.tell(proposal, state=TrialState.PRUNED)
    for proposal, trial, _ in alive:
        trial.state = "finished"
        study.tell(proposal, trial.score)
    log.info("%d of the trials: %s photos", len(proposals), ", ".join(counts))


def _strides(photos: int) -> list[int]:
    """Every so many-th photo in each stage: nested, so that no photo is evaluated twice."""
    last = max(1, photos // STAGES[1])
    first = last * (STAGES[1] // STAGES[0])
    return sorted({stride for stride in (first, last, 1) if stride <= photos}, reverse=True)


def _evaluate(
    made: Search,
    alive: Sequence[tuple[optuna.Trial, Trial, Spec]],
    study: optuna.Study,
    store: Path,
    stride: int,
) -> list[tuple[optuna.Trial, Trial, Spec]]:
    """Score proposals on every ``stride``-th photo; those that cannot be evaluated are left out."""
    from optuna.trial import TrialState

    if not alive:
        return []
    specs = [spec for _, _, spec in alive]
    names = specs[0].dataset.names[::stride]
    blocks, apart = tree.cost(specs[0].backbone.depth, [spec.attention for spec in specs])
    made.blocks += blocks * len(names)
    made.apart += apart * len(names)
    failed: Mapping[str, LabError] = {}
    try:
        evaluate(specs, store, shard=(0, stride), progress=False)
    except Unfinished as error:
        failed = error.failed
    evaluated = [one for one in alive if one[2].key not in failed]
    for proposal, trial, spec in alive:
        if spec.key in failed:
            trial.state = f"failed: {failed[spec.key]}"
            study.tell(proposal, state=TrialState.FAIL)
    if not evaluated:
        return []
    df = results.load(store, list({spec.key: None for _, _, spec in evaluated}), partial=True)
    attributes = df.attrs
    df = df[df["image"].isin(names)]  # a later stage of an earlier search has more
    df.attrs = attributes
    scores = results.miou(df)
    scores.index = scores.index.astype(str)
    for proposal, trial, spec in evaluated:
        trial.photos, trial.score = len(names), float(scores[spec.key[:SHORT]])
        proposal.report(trial.score, len(names))
    return evaluated


def sentence(made: Search) -> str:
    """The result in one sentence."""
    gap, winner = made.difference, made.winner
    values = ", ".join(f"{key} {value}" for key, value in winner.values.items())
    if made.best.key == made.default.key:
        score = 100 * float(results.miou(made.df).iloc[0])
        return (
            f"Of {len(made.trials)} trials on {made.train}, the best ({values}) is the default "
            f"itself; it scores {score:.1f} mIoU x100 on {made.test}."
        )
    low, high = 100 * gap["low"], 100 * gap["high"]
    if pd.isna(low):
        return (
            f"Of {len(made.trials)} trials on {made.train}, the best ({values}) scores "
            f"{100 * gap['difference']:+.1f} mIoU x100 against the default on {made.test}; it has "
            "too few photos for an interval."
        )
    sure = "surely better" if low > 0 else "surely worse" if high < 0 else "not surely different"
    return (
        f"Of {len(made.trials)} trials on {made.train}, the best ({values}) is {sure} on "
        f"{made.test}: {100 * gap['difference']:+.1f} mIoU x100 against the default "
        f"[{low:+.1f}, {high:+.1f}]."
    )


def sections(made: Search) -> list[Any]:
    """The search as sections of a report: the test, the trials, a chart of each parameter."""
    from sclip_lab.report.page import Section

    names = {made.best.key[:SHORT]: "best of the trials", made.default.key[:SHORT]: "default"}
    summary = results.summary(made.df)
    test = pd.DataFrame({"cell": [names[str(spec)] for spec in summary["spec"]]})
    test["variant"] = summary["attention"].astype(str)
    for name in ("miou", "low", "high"):
        test[{"miou": "mIoU"}.get(name, name)] = summary[name].to_numpy(float)
    test.attrs["caption"] = "mIoU x100 with its 95 % interval over photos of the test split"
    gap = made.difference
    difference = pd.DataFrame(
        [{"compared": "best against default"}
         | {name: float(gap[name]) for name in ("difference", "low", "high", "p")}]
    )  # fmt: skip
    difference.attrs["caption"] = "one comparison of the same photos; p is of it alone"
    tables = {"test": test, "difference": difference}
    if made.best.key == made.default.key:
        tables = {"test": test.assign(cell="default, which is the best of the trials")}
    worse = made.winner.score <= made.usual
    notes = [
        sentence(made),
        f"On the train split the best trial scores {100 * made.winner.score:.1f} and the default "
        f"{100 * made.usual:.1f}" + ("; no trial beats the default there." if worse else "."),
        f"The test split was used once, after all trials, for the two cells below: {made.test}.",
    ]
    states = pd.Series([trial.state.partition(":")[0] for trial in made.trials]).value_counts()
    searched = [f"searched: {key} = {part}" for key, part in made.space.items()]
    saved = f"{made.blocks} blocks ran, {made.apart} without the shared trunk"
    searched += [
        f"{len(made.trials)} trials in {made.seconds:.0f} s "
        f"({60 * len(made.trials) / made.seconds:.0f} a minute); {saved}.",
        ", ".join(f"{state}: {count}" for state, count in states.items()),
    ]
    trials = made.table()
    trials.attrs["caption"] = f"mIoU x100 on the photos seen of {made.train}; the best first"
    return [
        Section("test", "test", notes=notes, tables=tables),
        Section("trials", "trials", notes=searched, tables={"trials": trials},
                figures={"trials": _chart(made)}),
    ]  # fmt: skip


def _chart(made: Search) -> Any:
    """Score on the train split against each parameter; hollow: given up on few photos."""
    import seaborn as sns

    from sclip_lab.report.figures import COLORS, Figure, style

    with style():
        figure = Figure(figsize=(0.6 + 2.8 * len(made.space), 2.6), layout="constrained")
        axes = figure.subplots(1, len(made.space), squeeze=False, sharey=True)[0]
        for ax, (key, part) in zip(axes, made.space.items(), strict=True):
            for state, fill in (("given up", "none"), ("finished", COLORS[0])):
                trials = [trial for trial in made.trials if trial.state == state]
                texts = [trial.values[key] for trial in trials]
                places: Any = [float(text) for text in texts] if isinstance(part, Range) else texts
                scores = [100 * trial.score for trial in trials]
                ax.plot(places, scores, "o", mfc=fill, mec=COLORS[0], markersize=4, label=state)
            ax.axhline(100 * made.usual, color="0.15", lw=1, ls="--", label="default, all photos")
            if isinstance(part, Range) and part.log:
                ax.set_xscale("log")
            ax.set_xlabel(key)
            sns.despine(ax=ax)
        axes[0].set_ylabel("mIoU x100 on train")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.set_label(
        "trials on the train split; hollow ones were given up on a part of its photos, whose "
        "scores are not comparable with those on all"
    )
    return figure
