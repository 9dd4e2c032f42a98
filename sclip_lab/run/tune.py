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
from typing import Any

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

try:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState
except ImportError:
    raise LabError("sclip-lab tune needs Optuna: pip install 'sclip-lab[tune]'") from None

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution
log = logging.getLogger(__name__)
STAGES = (8, 32)  # about so many photos in the first stages; the last one has all
DECADE = 10  # a positive range is searched on a log scale if its ends differ by this factor
DIGITS = 4  # a proposed number is rounded to these, so that a user can type the value shown
_RANGE = re.compile(r"(-?[\d.]+(?:e-?\d+)?)\.\.(-?[\d.]+(?:e-?\d+)?)", re.IGNORECASE)


def parse(words: Sequence[str]) -> tuple[dict[str, Distribution], list[str]]:
    """What is searched, as Optuna's distributions by key, and the overrides that stay fixed.

    ``KEY=LOW..HIGH`` includes both ends, and gives whole numbers where both are typed so.

    Raises:
        LabError: a word that is no override, a range whose ends are wrong, or nothing to search.
    """
    space: dict[str, Distribution] = {}
    fixed = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise LabError(f"{word}: write KEY=LOW..HIGH, KEY=VALUE,VALUE or KEY=VALUE")
        if match := _RANGE.fullmatch(value):
            space[key] = _range(word, *match.groups())
            continue
        jobs = [job for (job,) in sweeper.expand((), [word], {})]
        values = [job.partition("=")[2].replace("\\ ", " ") for job in jobs]
        if len(values) > 1:
            space[key] = CategoricalDistribution(values)
        else:
            fixed.append(word)
    if not space:
        raise LabError(
            "nothing to search: give a range such as attention.temperature=0.1..4, or values such "
            "as attention.layers='last 1','last 2'"
        )
    if of_photos := [key for key in space if key.partition(".")[0] == "dataset"]:
        raise LabError(f"{of_photos[0]}: trials are compared on the same photos; give one value")
    return space, fixed


def _range(word: str, low: str, high: str) -> Distribution:
    try:
        ends = float(low), float(high)
    except ValueError:
        raise LabError(f"{word}: '{low}' and '{high}' must be numbers") from None
    if ends[0] >= ends[1]:
        raise LabError(f"{word}: the lower end must be below the upper one")
    on_log_scale = ends[0] > 0 and ends[1] >= DECADE * ends[0]
    if all(re.fullmatch(r"-?\d+", end) for end in (low, high)):
        return IntDistribution(int(low), int(high), on_log_scale)
    return FloatDistribution(*ends, on_log_scale)


class Half(Part):
    """Half of a data set that has no train split: the photos for choosing, or those for reporting.
    The sha256 of a photo's name says its half, so that new photos do not move old ones."""

    def __init__(self, whole: Dataset, train: bool) -> None:
        super().__init__(whole, None, None, 0)
        self.split = f"{'train' if train else 'test'} half by name digest"
        halves = [hashlib.sha256(name.encode()).digest()[0] % 2 == 0 for name in self._names]
        self._places = [place for place, half in enumerate(halves) if half == train]
        self._names = [whole.names[place] for place in self._places]


@dataclass
class Trial:
    """One proposal.

    Attributes:
        proposal: Optuna's trial. values: the proposed values by key, as a user would type them.
        spec: the trial's cell on the train split; not set if it could not be made.
        photos: how many train photos it was evaluated on. score: its mIoU on them, a fraction.
        state: "running", "finished", "given up" (the lower half of its batch) or "failed: why".
    """

    proposal: optuna.Trial
    values: dict[str, str]
    spec: Spec = field(init=False)
    photos: int = 0
    score: float = float("nan")
    state: str = "running"


@dataclass
class Search:
    """A search, and what it has done.

    Attributes:
        study: Optuna's. space: what is searched, see `parse`. fixed: the other overrides.
        default, best: cells on the test split. train: the photos to choose on.
        store: folder of all cells. trials: all trials so far.
        df: rows of ``default`` and ``best``. usual: mIoU of the default on the train split.
        seconds: that all trials took. blocks, apart: blocks that their passes ran, and would have
            run without sharing, summed over the photos of each stage.
    """

    study: optuna.Study
    space: Mapping[str, Distribution]
    fixed: Sequence[str]
    default: Spec
    best: Spec
    train: Dataset
    store: Path
    trials: list[Trial] = field(default_factory=list)
    df: pd.DataFrame = field(default_factory=pd.DataFrame)
    usual: float = float("nan")
    seconds: float = 0.0
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
            {"trial": number, **t.values, "photos": t.photos, "mIoU": t.score, "state": t.state}
            for number, t in enumerate(self.trials)
        ]
        order = ["photos", "mIoU"]
        return pd.DataFrame(rows).sort_values(order, ascending=False, ignore_index=True)

    @cached_property
    def difference(self) -> pd.Series:
        """The row of `results.difference` of best and default on the test split."""
        keys = (self.best.key[:SHORT], self.default.key[:SHORT])
        return results.difference(self.df, *keys).iloc[0]

    def run_batch(self, count: int) -> None:
        """Evaluate ``count`` proposals in stages, and tell the study what came of them."""
        trials = []
        for proposal in [self.study.ask() for _ in range(count)]:
            trial = Trial(proposal, _proposed(proposal, self.space))
            trials.append(trial)
            try:
                trial.spec = replace(_spec(self.fixed, trial.values), dataset=self.train)
            except LabError as error:
                self._end(trial, f"failed: {error}")
        self.trials += trials
        counts = []
        for stride in _strides(len(self.train)):
            running = self._score([trial for trial in trials if trial.state == "running"], stride)
            counts.append(f"{len(running)} on {len(self.train.names[::stride])}")
            if stride > 1 and len(running) > 1:
                running.sort(key=lambda trial: -trial.score)
                for trial in running[-(len(running) // 2) :]:
                    self._end(trial, "given up")
            elif stride == 1:
                for trial in running:
                    self._end(trial, "finished")
        log.info("%d of the trials: %s photos", count, ", ".join(counts))

    def _score(self, trials: Sequence[Trial], stride: int) -> list[Trial]:
        """Score trials on every ``stride``-th photo; return those that can be evaluated."""
        if not trials:
            return []
        specs, names = [trial.spec for trial in trials], self.train.names[::stride]
        blocks, apart = tree.cost(specs[0].backbone.depth, [spec.attention for spec in specs])
        self.blocks += blocks * len(names)
        self.apart += apart * len(names)
        failed: Mapping[str, LabError] = {}
        try:
            evaluate(specs, self.store, shard=(0, stride), progress=False)
        except Unfinished as error:
            failed = error.failed
        for trial in trials:
            if trial.spec.key in failed:
                self._end(trial, f"failed: {failed[trial.spec.key]}")
        evaluated = [trial for trial in trials if trial.state == "running"]
        keys = list(dict.fromkeys(trial.spec.key for trial in evaluated))
        if not keys:
            return []
        df = results.load(self.store, keys, partial=True)
        attributes = df.attrs
        df = df[df["image"].isin(names)]  # an earlier search may have stored more photos
        df.attrs = attributes
        scores = results.miou(df)
        scores.index = scores.index.astype(str)
        for trial in evaluated:
            trial.photos, trial.score = len(names), float(scores[trial.spec.key[:SHORT]])
            trial.proposal.report(trial.score, len(names))
        return evaluated

    def _end(self, trial: Trial, state: str) -> None:
        """Set a trial's state, and tell it to the study."""
        trial.state = state
        if state == "finished":
            self.study.tell(trial.proposal, trial.score)
        else:
            pruned = state == "given up"
            self.study.tell(trial.proposal, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def _proposed(proposal: optuna.Trial, space: Mapping[str, Distribution]) -> dict[str, str]:
    """Draw a value for each key, as text that a user can type."""
    values = {}
    for key, part in space.items():
        if isinstance(part, FloatDistribution):
            number = proposal.suggest_float(key, part.low, part.high, log=part.log)
            values[key] = f"{number:.{DIGITS}g}"
        elif isinstance(part, IntDistribution):
            values[key] = str(proposal.suggest_int(key, part.low, part.high, log=part.log))
        else:
            values[key] = str(proposal.suggest_categorical(key, part.choices))
    return values


def _strides(photos: int) -> list[int]:
    """Return each stage's stride through the photos. It divides the stride before, so that the
    photos of a stage are among those of the next, and none is evaluated twice."""
    last = max(1, photos // STAGES[1])
    first = last * (STAGES[1] // STAGES[0])
    return sorted({stride for stride in (first, last, 1) if stride <= photos}, reverse=True)


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
            The data set that they name is the test split.
        trials: how many trials. batch: how many are evaluated together. seed: of the proposals.
        photos: the most photos used of the train split; they are drawn by ``seed``.
        train: overrides that turn the test split into the train split.

    Raises:
        LabError: nothing to search, unknown keys, no trial that can be evaluated, the train split
            is the test split.
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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A batch is proposed before any of it is scored: the constant liar keeps its trials apart.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tuned = Search(study, space, fixed, default, default, chosen_on, store)
    begin = time.perf_counter()
    while len(tuned.trials) < trials:
        tuned.run_batch(min(batch, trials - len(tuned.trials)))
    tuned.seconds = time.perf_counter() - begin
    if not any(trial.state == "finished" for trial in tuned.trials):
        raise LabError(f"no trial could be evaluated: {tuned.trials[0].state}")
    tuned.best = replace(_spec(fixed, tuned.winner.values), dataset=reported_on)
    usual = replace(default, dataset=chosen_on)
    tuned.usual = float(results.miou(evaluate([usual], store, progress=False)).iloc[0])
    tuned.df = evaluate([tuned.best, default], store, progress=False)
    return tuned


def _spec(overrides: Sequence[str], values: Mapping[str, str] | None = None) -> Spec:
    """The cell of these overrides, with further values by key."""
    more = [f"{key}={value}" for key, value in (values or {}).items()]
    (config,) = sweeper.sweep([*overrides, *more])
    return make_spec(config)


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
        chosen_on, dataset = Half(dataset, True), Half(dataset, False)
        if not (len(chosen_on) and len(dataset)):
            raise LabError(f"{dataset.name}: too few photos to divide") from error
    if chosen_on.key == dataset.key:
        raise LabError(
            f"{' '.join(train)} gives the photos that the test is on: name another train split"
        )
    part = Part(chosen_on, None, photos, seed)
    return (part if len(part) < len(chosen_on) else chosen_on), dataset


def in_words(dataset: Dataset) -> str:
    """Name, split, selection and number of photos of a data set."""
    words = [dataset.name, getattr(dataset, "split", ""), getattr(dataset, "selection", "")]
    return ", ".join([*filter(None, words), f"{len(dataset)} photos"])


def sentence(tuned: Search) -> str:
    """The result in one sentence."""
    values = ", ".join(f"{key} {value}" for key, value in tuned.winner.values.items())
    test = in_words(tuned.default.dataset)
    lead = f"Of {len(tuned.trials)} trials on {in_words(tuned.train)}, the best ({values}) "
    if tuned.best.key == tuned.default.key:
        score = 100 * float(results.miou(tuned.df).iloc[0])
        return f"{lead}is the default itself; it scores {score:.1f} mIoU x100 on {test}."
    gap, low, high = (100 * tuned.difference[name] for name in ("difference", "low", "high"))
    against = f"{gap:+.1f} mIoU x100 against the default"
    if pd.isna(low):
        return f"{lead}scores {against} on {test}; it has too few photos for an interval."
    p = tuned.difference["p"]
    sure = "surely better" if low > 0 else "surely worse" if high < 0 else "not surely different"
    return f"{lead}is {sure} on {test}: {against} [{low:+.1f}, {high:+.1f}], p = {p:.3f}."


def sections(tuned: Search) -> list[Any]:
    """The search as sections of a report: the test, the trials, a chart of each parameter."""
    from sclip_lab.report import tables
    from sclip_lab.report.evidence import Evidence
    from sclip_lab.report.page import Section

    worse = tuned.winner.score <= tuned.usual
    notes = [
        sentence(tuned),
        f"On the train split the best trial scores {100 * tuned.winner.score:.1f} and the default "
        f"{100 * tuned.usual:.1f}" + ("; no trial beats the default there." if worse else "."),
        "The test split was used once, after all trials, for the two cells below: "
        f"{in_words(tuned.default.dataset)}.",
    ]
    states = pd.Series([trial.state.partition(":")[0] for trial in tuned.trials]).value_counts()
    searched = [f"searched: {key} = {_described(part)}" for key, part in tuned.space.items()]
    searched += [
        f"{len(tuned.trials)} trials in {tuned.seconds:.0f} s "
        f"({60 * len(tuned.trials) / tuned.seconds:.0f} a minute); "
        f"{tuned.blocks} blocks ran, {tuned.apart} without the shared trunk.",
        ", ".join(f"{state}: {count}" for state, count in states.items()),
    ]
    caption = f"mIoU x100 on the photos seen of {in_words(tuned.train)}; the best first"
    trials = tables.captioned(tuned.table(), caption)
    return [
        Section("test", "test", notes=notes, tables={"test": tables.cells(Evidence(tuned.df))}),
        Section("trials", "trials", notes=searched, tables={"trials": trials},
                makers=[lambda: {"trials": _chart(tuned)}]),
    ]  # fmt: skip


def _described(part: Distribution) -> str:
    """A distribution in words."""
    if isinstance(part, CategoricalDistribution):
        return ", ".join(map(str, part.choices))
    return f"{part.low:g} to {part.high:g}{' (log scale)' if part.log else ''}"


def _chart(tuned: Search) -> Any:
    """Plot scores on the train split against each parameter; hollow marks were given up early."""
    from sclip_lab.report.figures import COLORS, charts

    count = len(tuned.space)
    with charts((0.6 + 2.8 * count, 2.6), count, count, sharey=True) as (figure, axes):
        for ax, (key, part) in zip(axes, tuned.space.items(), strict=True):
            for state, fill in (("given up", "none"), ("finished", COLORS[0])):
                trials = [trial for trial in tuned.trials if trial.state == state]
                places = [trial.proposal.params[key] for trial in trials]
                scores = [100 * trial.score for trial in trials]
                ax.plot(places, scores, "o", mfc=fill, mec=COLORS[0], markersize=4, label=state)
            ax.axhline(100 * tuned.usual, color="0.15", lw=1, ls="--", label="default, all photos")
            if not isinstance(part, CategoricalDistribution) and part.log:
                ax.set_xscale("log")
            ax.set_xlabel(key)
        axes[0].set_ylabel("mIoU x100 on train")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.set_label(
        "trials on the train split; hollow ones were given up on a part of its photos, whose "
        "scores are not comparable with those on all"
    )
    return figure
