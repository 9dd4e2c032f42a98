"""The registry of studies, their claims on made-up results, and the page they become."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.config import registry
from sclip_lab.core.errors import LabError
from sclip_lab.paper import sections, studies
from sclip_lab.paper.studies import qualitative
from sclip_lab.report import page, verdicts
from sclip_lab.report.figures import COLORS
from sclip_lab.report.found import Found, on_common_images
from sclip_lab.results.statistics import comparisons, uncertainty
from tests.synthetic_store import confusion_rows, labels, write_spec

SKILLS = {"vanilla": 0.2, "csa": 0.8, "csa_q": 0.78, "maskclip": 0.5}


def write(root: Path, skills: dict[str, float] = SKILLS, count: int = 12) -> Found:
    images = [f"photo_{index}" for index in range(count)]
    for label, skill in skills.items():
        rows = [confusion_rows(n, *labels(i, skill, (48, 64), 5)) for i, n in enumerate(images)]
        write_spec(root, label, rows, images, config={"attention": {"residual": True, "mlp": True}})
    return Found(results.load(root))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return write(tmp_path_factory.mktemp("store"))


def named(found: Found, label: str) -> str:
    return str(found.cells.index[found.cells["attention"] == label][0])


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("name", studies.names())
def test_a_study_is_one_file_and_one_yaml(name: str) -> None:
    study = studies.load(name)
    assert study.question.endswith("?")
    # tests/config/test_presets.py composes each of them
    assert name in registry.names("experiment")


def test_nothing_else_knows_a_study_by_name() -> None:
    root = Path(studies.__file__).parents[2]
    own = Path(studies.__file__).parent
    for path in root.rglob("*.py"):
        if own not in path.parents:
            assert "paper.studies." not in path.read_text(encoding="utf-8"), path


def test_an_unknown_study_is_suggested() -> None:
    with pytest.raises(LabError, match="did you mean layers"):
        studies.load("layer")


@pytest.mark.parametrize("name", studies.names())
@pytest.mark.parametrize("skills", [{"vanilla": 0.2}, {"vanilla": 0.2, "csa": 0.8}])
def test_a_store_that_lacks_cells_is_no_error(
    name: str, skills: dict[str, float], tmp_path: Path
) -> None:
    images = ["a", "b", "c"]
    for label, skill in skills.items():
        rows = [confusion_rows(n, *labels(i, skill, (24, 32), 5)) for i, n in enumerate(images)]
        write_spec(tmp_path, label, rows, images)  # and no parameter of any attention is known
    section = sections.section(name, studies.load(name), Found(results.load(tmp_path)))
    assert all(v.answer in (verdicts.HOLDS, verdicts.FAILS, verdicts.OPEN)
               for v in section.verdicts)  # fmt: skip


def test_the_verdicts_in_docs_say_whose_they_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert sections.EMBEDDED in text
    assert verdicts.RULE in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    judged = {row[0].removeprefix("| ") for row in rows}
    assert {"main", "layers", "methods"} <= judged <= set(studies.names())
    assert any(row[3].startswith(verdicts.DEPARTS) for row in rows)


# ---------------------------------------------------------------- verdicts


def test_higher_follows_the_paired_test(found: Found) -> None:
    csa, vanilla, query = (named(found, name) for name in ("csa", "vanilla", "csa_q"))
    assert verdicts.higher(found, csa, vanilla, "").answer == verdicts.HOLDS
    assert verdicts.higher(found, vanilla, csa, "").answer == verdicts.FAILS
    row = results.difference(found.df, csa, query).iloc[0]
    sure = row["p"] < 0.05
    expected = (verdicts.HOLDS if row["difference"] > 0 else verdicts.FAILS) if sure else None
    assert verdicts.higher(found, csa, query, "").answer == (expected or verdicts.OPEN)
    why = verdicts.higher(found, csa, vanilla, "").why
    scores = results.summary(found.df).set_index("attention")["miou"]
    told = f"at {100 * scores['csa']:.1f} against {{}} at {100 * scores['vanilla']:.1f}"
    assert f"csa {told.format('vanilla')}" in why
    names = {csa: "ours", vanilla: "theirs"}
    assert (
        f"ours {told.format('theirs')}" in verdicts.higher(found, csa, vanilla, "", names=names).why
    )


def test_more_comparisons_need_more_evidence(found: Found) -> None:
    csa, vanilla = named(found, "csa"), named(found, "vanilla")
    part = Found(found.df)
    row = found.difference(csa, vanilla)
    part._differences[csa, vanilla, 0.95] = row.where(row.index != "p", 0.012)
    family = [(f"other {k}", vanilla) for k in range(4)]
    part._differences.update({(*pair, 0.95): pd.Series({"p": 0.9}) for pair in family})
    assert verdicts.higher(part, csa, vanilla, "").answer == verdicts.HOLDS
    judged = verdicts.higher(part, csa, vanilla, "", family)
    assert judged.answer == verdicts.OPEN
    assert f"(Holm, {len(family) + 1} comparisons)" in judged.why


def test_the_page_says_where_results_depart_from_what_is_published(found: Found) -> None:
    csa, vanilla = named(found, "csa"), named(found, "vanilla")
    worse = verdicts.higher(found, vanilla, csa, "Less is more", published="1.6")
    assert worse.departs
    assert worse.beside_published == "departs (1.6)"
    assert not verdicts.higher(found, vanilla, csa, "Nobody says so").departs
    part = page.Section("layers", "layers", verdicts=[worse])
    assert "1 published claims do not hold here: Less is more." in sections.overview([part]).notes
    text = sections.markdown([part], embedded=True)
    assert "| departs (1.6) |" in text
    assert "embedded world" in text


def test_best_and_alike(found: Found) -> None:
    everything = list(found.cells.index)
    csa, vanilla = named(found, "csa"), named(found, "vanilla")
    assert verdicts.best(found, vanilla, everything, "").answer == verdicts.FAILS
    assert verdicts.best(found, csa, [vanilla, named(found, "maskclip")], "").answer == "holds"
    highest = found.cells["miou"].max()
    assert verdicts.alike(found, everything, csa, highest, "").answer == verdicts.HOLDS
    vacuous = verdicts.alike(found, everything, csa, highest + 1e-6, "")
    assert vacuous.answer == verdicts.OPEN
    assert "all scores are below" in vacuous.why
    assert verdicts.alike(found, [vanilla], csa, 0.01, "").answer == verdicts.FAILS
    assert verdicts.alike(found, [named(found, "csa_q")], csa, 1e-6, "").answer != verdicts.HOLDS


def test_pairs_are_compared_on_the_images_that_both_have(tmp_path: Path) -> None:
    write(tmp_path, {"csa": 0.8}, count=6)
    images = [f"photo_{index}" for index in range(6)]
    rows = [confusion_rows(n, *labels(i, 0.2, (48, 64), 5)) for i, n in enumerate(images[:4])]
    write_spec(tmp_path, "vanilla", rows, images)
    df = on_common_images(results.load(tmp_path, partial=True))
    assert set(df["image"]) == set(images[:4])
    part = Found(df, whole={"shapes": 6})
    assert part.part == "4 of 6 images of shapes"
    assert (
        verdicts.higher(part, *(named(part, n) for n in ("csa", "vanilla")), "").answer == "holds"
    )


def test_one_bootstrap_serves_all_claims_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = write(tmp_path), []

    def counted(*args: Any) -> Any:
        made.append(args)
        return uncertainty.resampled(*args)

    monkeypatch.setattr(comparisons, "resampled", counted)
    part = whole.of([named(whole, name) for name in ("csa", "csa_q", "vanilla")])
    row = part.difference(*(named(whole, name) for name in ("csa", "vanilla")))
    part.of([named(whole, "csa")]).score(named(whole, "csa"))
    assert len(made) == 1
    monkeypatch.undo()
    apart = results.difference(part.df, "csa", "vanilla").iloc[0]
    pd.testing.assert_series_equal(row, apart[row.index], check_names=False)
    pd.testing.assert_frame_equal(part.summary, results.summary(part.df))


def test_the_page_says_that_unknown_words_are_one_to_the_embedded_network(tmp_path: Path) -> None:
    images = ["a", "b", "c"]
    for backbone in ("patchwork_vit", "ViT-B-16"):
        for label, skill in SKILLS.items():
            rows = [confusion_rows(n, *labels(i, skill, (24, 32), 5)) for i, n in enumerate(images)]
            write_spec(tmp_path, label, rows, images, names={"backbone": backbone},
                       seed=len(backbone))  # fmt: skip
    found, study = Found(results.load(tmp_path)), studies.load("vocabulary")
    for setting, part in study.settings(found):
        told = study.figures(part)["vocabulary"].get_label()
        assert ("one and the same token" in told) == setting.startswith("patchwork_vit")


def test_a_method_may_have_several_protocols_of_its_own(tmp_path: Path) -> None:
    images = ["a", "b", "c"]
    cells = [("csa", "unified"), *(("clearclip", p) for p in ("unified", "clearclip", "freecp"))]
    for number, (variant, protocol) in enumerate(cells):
        rows = [confusion_rows(n, *labels(i, 0.2 + 0.2 * number, (24, 32), 5))
                for i, n in enumerate(images)]  # fmt: skip
        write_spec(tmp_path, variant, rows, images, names={"protocol": protocol}, seed=number)
    found, study = Found(results.load(tmp_path)), studies.load("methods")
    claims = {v.claim: v.why for v in study.verdicts(found)}
    for protocol in ("clearclip", "freecp"):
        claim = f"clearclip is better under protocol {protocol} than under the one that all share"
        assert f"clearclip · {protocol} at" in claims[claim]
        assert "(Holm, 2 comparisons)" in claims[claim]
    ticks = study.figures(found)["methods_own"].axes[0].get_yticklabels()
    assert {tick.get_text().split("   ")[0] for tick in ticks} == {
        "clearclip, clearclip", "clearclip, freecp"
    }  # fmt: skip


def test_strengths_of_changed_photos_are_told(tmp_path: Path) -> None:
    images, sigmas = ["a", "b", "c"], {1: 0.7, 2: 1.5, 3: 3.0}
    views = {f"blur_{n}": {"weight": 0, "change": {"sigma": s}} for n, s in sigmas.items()}
    for chosen in ("photo", *views):
        config = {"protocol": {"views": {**views, "photo": {"weight": 0}}}}
        config["protocol"]["views"][chosen] = {**config["protocol"]["views"][chosen], "weight": 1}
        for variant in ("vanilla", "csa"):
            rows = [confusion_rows(n, *labels(i, SKILLS[variant], (24, 32), 5))
                    for i, n in enumerate(images)]  # fmt: skip
            write_spec(tmp_path, variant, rows, images, config=config)
    study = studies.load("robustness")
    figure = study.figures(Found(results.load(tmp_path)))["robustness"]
    assert "blur of sigma 0.7, 1.5, 3 pixels" in figure.get_label()
    lines = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert lines == {"vanilla": COLORS[0], "csa": COLORS[2]}  # as in every chart


@pytest.mark.parametrize(("photos", "answer"), [(1, verdicts.OPEN), (6, verdicts.HOLDS)])
def test_one_measured_photo_decides_nothing(found: Found, photos: int, answer: str) -> None:
    rows = [
        {"spec": named(found, name), "image": f"photo_{k}", "measure": "spatial_invariance",
         "value": value + 0.01 * k}
        for k in range(photos) for name, value in (("vanilla", 0.9), ("csa", 0.5))
    ]  # fmt: skip
    measured = replace(found, measured=pd.DataFrame(rows))
    assert studies.load("attention").verdicts(measured)[0].answer == answer


def test_random_projections_are_drawn_with_their_seeds_and_forms(tmp_path: Path) -> None:
    images, counts = ["a", "b", "c"], {"csa_random": (1, 2), "csa_random_full": (1,)}
    for variant, sizes in counts.items():
        for count in sizes:
            for seed in range(5):
                rows = [confusion_rows(n, *labels(i, 0.5 + 0.01 * seed, (24, 32), 5))
                        for i, n in enumerate(images)]  # fmt: skip
                config = {"attention": {"count": count, "seed": seed}}
                write_spec(tmp_path, f"{variant}(count={count}, seed={seed})", rows, images,
                           config=config, names={"attention": variant})  # fmt: skip
    found, study = Found(results.load(tmp_path)), studies.load("projections")
    (ax,) = study.figures(found)["projections_ensemble"].axes
    drawn = {str(line.get_label()): line for line in ax.lines}
    crosses = drawn["one of full width, 5 seeds"]
    summary = results.summary(found.df)
    full = summary["miou"][summary["attention"].astype(str).str.startswith("csa_random_full")]
    np.testing.assert_allclose(sorted(crosses.get_ydata()), sorted(100 * full))
    assert [len(line.get_xdata()) for line in ax.lines if line.get_marker() == "_"] == [5, 5]
    table = study.tables(found)["projections_random"]
    assert table[["matrices", "seeds"]].to_numpy().tolist() == [[1, 5], [2, 5], [1, 5]]


# ---------------------------------------------------------------- the page


def test_a_page_is_one_file_that_escapes_names(found: Found, tmp_path: Path) -> None:
    study = studies.load("main")
    bad = verdicts.Verdict("<script>alert(1)</script>", verdicts.HOLDS, "a & b")
    table = pd.DataFrame({"variant": ["a_b <i>", "50 %"], "mIoU": [0.25, np.nan]})
    table.attrs["bold"] = {"mIoU": [True, False]}
    section = page.Section("odd", "odd & even", verdicts=[bad], tables={"odd": table})
    made = [sections.section("main", study, found), section]
    files = page.write([sections.overview(made), *made], tmp_path, "a title")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "a_b &lt;i&gt;" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    latex = (tmp_path / "odd.tex").read_text(encoding="utf-8")
    assert r"a\_b" in latex
    assert r"50 \%" in latex
    assert r"\textbf{25.0}" in latex
    suffixes = {path.suffix for path in files}
    assert suffixes == {".html", ".png", ".pdf", ".csv", ".tex"}
    assert all(path.stat().st_size for path in files)
    assert pd.read_csv(tmp_path / "odd.csv")["mIoU"][0] == 0.25
    judged = pd.read_csv(tmp_path / "verdicts.csv")
    assert set(judged["study"]) == {"main", "odd"}
    assert "CSA is better than vanilla attention" in sections.markdown(made)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 9])
def test_no_photo_is_shown_twice(tmp_path: Path, count: int) -> None:
    chosen = [
        name
        for names in qualitative.chosen(write(tmp_path, count=count)).values()
        for name in names
    ]
    assert len(chosen) == len(set(chosen)) == min(count, 3 if count < 6 else 6)
