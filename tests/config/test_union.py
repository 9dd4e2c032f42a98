"""The sweeper over several grids, and composing its jobs without launching them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import OmegaConf

from sclip_lab.config import registry
from sclip_lab.config.composition import CONFIG, Loader, plain_config
from sclip_lab.config.sweeper import expand, sweep
from sclip_lab.core.errors import LabError
from sclip_lab.run.job import make_spec
from tests.running import fail, succeed

GRIDS = [
    {"attention": "vanilla,csa"},
    {"attention": "csa", "attention.temperature": "1,2", "unless": {"backbone": "tiny*"}},
    {"attention": "early", "when": {"backbone": "tiny"}},
]


def test_jobs_are_the_union_of_the_grids() -> None:
    assert expand(GRIDS, [], {"backbone": "large"}) == [
        ["attention=vanilla"],
        ["attention=csa"],
        ["attention=csa", "attention.temperature=1"],
        ["attention=csa", "attention.temperature=2"],
    ]
    assert expand(GRIDS, [], {"backbone": "tiny"})[2:] == [["attention=early"]]


def test_what_is_typed_comes_before_a_grid_and_jobs_are_unique() -> None:
    jobs = expand(GRIDS, ["attention=csa", "seed=1,2"], {"backbone": "tiny"})
    assert jobs == [["attention=csa", "seed=1"], ["attention=csa", "seed=2"]]


def test_a_grid_keeps_what_it_says() -> None:
    grid = {"backbone": "large,huge", "keep": "backbone", "unless": {"backbone": "tiny"}}
    assert expand([grid], ["backbone=base"], {"backbone": "tiny"}) == [
        ["backbone=large"],
        ["backbone=huge"],
    ]
    assert expand([grid], [], {"backbone": "tiny"}) == []


def test_conditions_see_a_swept_choice() -> None:
    jobs = expand(GRIDS[2:], ["backbone=tiny,large"], {"backbone": "other"})
    assert jobs == [["attention=early", "backbone=tiny"]]


def test_composed_jobs_are_those_that_hydra_launches(tmp_path: Path) -> None:
    few = ("experiment=main", "refinement=none", "dataset.limit=1")
    succeed(tmp_path, "-m", *few)
    launched = {path.name for path in (tmp_path / "store" / "specs").iterdir()}
    composed = sweep([*few, "dataset.height=64", "dataset.width=80", "device=cpu"])
    assert {make_spec(config).key for config in composed} == launched
    assert len(launched) == 3


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"]),
        ("range(0.01,0.06,0.01)", ["0.01", "0.02", "0.03", "0.04", "0.05"]),
        ("range(1,0,-0.25)", ["1.0", "0.75", "0.5", "0.25"]),
        ("range(1,4)", ["1", "2", "3"]),
        ("range(1.2,1.5,0.1)", ["1.2", "1.3", "1.4"]),
    ],
)
def test_ranges_have_the_digits_that_are_typed(typed: str, values: list[str]) -> None:
    assert expand([], [f"seed={typed}"], {}) == [[f"seed={value}"] for value in values]


SIGMA = "attention.prior.sigma"


def test_a_key_goes_to_the_choices_that_have_it(caplog: pytest.LogCaptureFixture) -> None:
    def sigmas(*words: str) -> list[object]:
        return [
            config.attention.prior and config.attention.prior.get("sigma")
            for config in sweep([f"attention={words[0]}", *words[1:]])
        ]

    assert sigmas("naclip,segearth_gav", f"{SIGMA}=3") == [3, 3]
    with caplog.at_level("INFO"):
        assert sigmas("csa,naclip", f"{SIGMA}=2,3") == [None, 2, 3]
    assert f"{SIGMA}: left out of 2 of 4 jobs, which have no such key" in caplog.text
    with pytest.raises(LabError, match=f"'{SIGMA}': attention.prior has no keys"):
        sweep(["attention=csa,vanilla", f"{SIGMA}=3"])
    with pytest.raises(LabError, match=r"did you mean attention\.prior\.sigma"):
        sweep(["attention=naclip,segearth_gav", "attention.sigma=3"])


def test_a_fixed_key_of_swept_choices_runs(tmp_path: Path) -> None:
    run = succeed(tmp_path, "-m", "attention=csa,naclip", f"{SIGMA}=3")
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2
    assert "naclip(prior.sigma=3.0)" in run.out
    with_typo = fail(tmp_path, "-m", "attention=csa,naclip", "attention.sigm=3")
    assert "unknown key 'attention.sigm'" in with_typo.err


def test_failed_jobs_are_counted_by_reason(tmp_path: Path) -> None:
    run = fail(tmp_path, "-m", "attention=csa", "attention.layers=[98],[99],[-1]", "seed=0,1")
    [line] = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 4 of 6 jobs failed: 2 x attention 'csa'")
    assert "; 2 x attention 'csa'" in line


def test_presets_of_the_union_are_listed() -> None:
    assert "union" in registry.names("hydra/sweeper")


@pytest.mark.parametrize(
    ("grids", "text"),
    [
        (5, "hydra.sweeper.grids: 5 must be a list"),
        ([None], r"grids\.0: None must map keys"),
        ([{"when": "csa"}], r"grids\.0\.when: 'csa' must map groups"),
        ([{"a=b": 1}], "'a=b' is no key"),
        ([{"attention": {"a": 1}}], r"grids\.0\.attention: .* must be text"),
    ],
)
def test_grids_that_are_none(grids: object, text: str) -> None:
    with pytest.raises(LabError, match=text):
        expand(grids, [], {})  # type: ignore[arg-type]


def test_jobs_are_composed_as_by_hydra() -> None:
    """Oracle: Hydra's own function, which composes each job from its files."""
    words = ["attention=csa,naclip", "attention.temperature=0.73,1", "+pictures.more=1",
             "hydra.sweep.subdir=${hydra.job.override_dirname}"]  # fmt: skip
    loader = Loader()
    master = loader.load_configuration(CONFIG, words, RunMode.MULTIRUN)
    jobs = expand([], words[:3], plain_config(master.hydra.runtime.choices))
    assert len(jobs) == 4
    for job in jobs:
        usual = ConfigLoaderImpl.load_sweep_config(loader, master, job)
        assert OmegaConf.to_yaml(loader.load_sweep_config(master, job)) == OmegaConf.to_yaml(usual)
