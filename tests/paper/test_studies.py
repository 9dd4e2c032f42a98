"""The registry of studies, their claims on made-up results, and the page they become."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sclip_lab import results
from sclip_lab.config import registry
from sclip_lab.core.errors import LabError
from sclip_lab.paper import claims, questions, sections, studies, verdicts
from sclip_lab.paper.cards import trained_to_show
from sclip_lab.paper.studies import qualitative
from sclip_lab.report import page
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import COLORS
from sclip_lab.results.statistics import comparisons, intervals, uncertainty
from tests.synthetic_store import write_cell

SKILLS = {"vanilla": 0.2, "csa": 0.8, "csa_q": 0.78, "maskclip": 0.5}


def write(root: Path, skills: dict[str, float] = SKILLS, count: int = 12) -> Evidence:
    images = [f"photo_{index}" for index in range(count)]
    for label, skill in skills.items():
        write_cell(
            root,
            label,
            skill,
            images,
            shape=(48, 64),
            config={"attention": {"residual": True, "mlp": True}},
        )
    return Evidence(results.load(root))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return write(tmp_path_factory.mktemp("store"))


def named(evidence: Evidence, label: str) -> str:
    return str(evidence.cells.index[evidence.cells["attention"] == label][0])


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("name", studies.names())
def test_a_study_is_one_file_and_one_yaml(name: str) -> None:
    study = studies.load(name)
    assert study.question.endswith("?")
    # tests/config/test_presets.py composes each of them
    assert name in registry.names("experiment")


def test_nothing_else_knows_a_study_by_name() -> None:
    root = Path(studies.__file__).parents[2]
    folder = Path(studies.__file__).parent
    for path in root.rglob("*.py"):
        if folder not in path.parents:
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
        write_cell(tmp_path, label, skill, images)  # and no parameter of any attention is known
    drawing = sections.draw(name, studies.load(name), Evidence(results.load(tmp_path)))
    _, judged = sections.sections([drawing])
    assert all(v.answer == verdicts.NONE for v in judged)  # three photos


def test_the_verdicts_in_docs_say_whose_they_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert sections.EMBEDDED in text
    assert verdicts.RULE in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    judged = {row[0].removeprefix("| ") for row in rows}
    assert {"main", "layers"} <= judged <= set(studies.names())
    assert any(row[4].startswith("departs") for row in rows)


# ---------------------------------------------------------------- verdicts


def answer(claim: claims.Claim) -> str:
    [verdict] = verdicts.judge([claim])
    return verdict.answer


def why(claim: claims.Claim) -> str:
    [verdict] = verdicts.judge([claim])
    return verdict.why


def test_higher_follows_the_paired_test(evidence: Evidence) -> None:
    csa, vanilla, query = (named(evidence, name) for name in ("csa", "vanilla", "csa_q"))
    assert answer(claims.higher(evidence, csa, vanilla, "")) == verdicts.HOLDS
    assert answer(claims.higher(evidence, vanilla, csa, "")) == verdicts.FAILS
    row = results.difference(evidence.df, csa, query).iloc[0]
    sure = row["p"] < 0.05
    expected = (verdicts.HOLDS if row["difference"] > 0 else verdicts.FAILS) if sure else None
    assert answer(claims.higher(evidence, csa, query, "")) == (expected or verdicts.OPEN)
    text = why(claims.higher(evidence, csa, vanilla, ""))
    scores = results.summary(evidence.df).set_index("attention")["miou"]
    words = f"at {100 * scores['csa']:.1f} against {{}} at {100 * scores['vanilla']:.1f}"
    assert f"csa {words.format('vanilla')}" in text
    names = {csa: "ours", vanilla: "theirs"}
    text = why(claims.higher(evidence, csa, vanilla, "", names=names))
    assert f"ours {words.format('theirs')}" in text


def test_more_comparisons_need_more_evidence() -> None:
    test = claims.Comparison(("score", "a", "b"), 0.012, 1.0)
    others = tuple(claims.Comparison(("score", "a", f"{k}"), 0.9, 1.0) for k in range(4))
    alone = claims.Claim("alone", "facts", (test,))
    assert answer(alone) == verdicts.HOLDS
    judged = claims.Claim("in a family", "facts", (test,), others)
    assert answer(judged) == verdicts.OPEN
    assert "p = 0.060 (Holm, 5 comparisons)" in why(judged)
    # Over the page: claims of their own count as well, each comparison once.
    page_of = [alone, *(claims.Claim(o.key[2], "facts", (o,)) for o in (*others, *others))]
    first, *_ = verdicts.judge(page_of, "page")
    assert first.answer == verdicts.OPEN
    assert "(Holm, 5 comparisons)" in first.why
    with pytest.raises(LabError, match="did you mean page"):
        verdicts.judge([alone], "pages")


def test_a_claim_that_repeats_a_comparison_refers_to_the_first(evidence: Evidence) -> None:
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    one = replace(claims.higher(evidence, csa, vanilla, "One says so"), study="main")
    two = replace(claims.higher(evidence, vanilla, csa, "Another denies it"), study="layers")
    first, second = verdicts.judge([one, two])
    assert (first.standing, second.standing) == (verdicts.TESTED, verdicts.REPEATS)
    assert second.why == "the same comparison as main: One says so"
    assert "1 tested (1 hold" in verdicts.counts([first, second])
    assert "1 repeat" in verdicts.counts([first, second])


def test_a_repetition_the_other_way_round_has_the_other_answer(evidence: Evidence) -> None:
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    judged = verdicts.judge([claims.higher(evidence, *pair, "") for pair in
                             ((csa, vanilla), (vanilla, csa), (csa, vanilla))])  # fmt: skip
    assert [v.answer for v in judged] == [verdicts.HOLDS, verdicts.FAILS, verdicts.HOLDS]


def test_what_cannot_differ_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """Two names of one result: neither a claim nor a member of a family."""
    evidence = write(tmp_path)
    images = [f"photo_{index}" for index in range(12)]
    write_cell(tmp_path, "csa_again", 0.8, images, shape=(48, 64))
    evidence = Evidence(results.load(tmp_path))
    csa, again, vanilla = (named(evidence, name) for name in ("csa", "csa_again", "vanilla"))
    same = claims.higher(evidence, again, csa, "No news", same="it is the same")
    assert same.same == "it is the same"
    assert verdicts.judge([same]) == []
    drawing = sections.Drawn("layers", studies.load("layers"), claims=[same], parts={"": evidence})
    page_sections, _ = sections.sections([drawing])
    note = "Left out, for its two sides cannot differ: No news (it is the same)."
    assert all(note in section.notes for section in page_sections[1:])
    family = [(csa, vanilla), (again, vanilla), (again, csa)]
    assert "comparisons" not in why(claims.higher(evidence, csa, vanilla, "", family))
    assert "1 others" in why(claims.best(evidence, csa, [again, vanilla], ""))


def test_the_page_says_where_results_depart_from_what_is_published(evidence: Evidence) -> None:
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    worse = claims.higher(evidence, vanilla, csa, "Less is more", published="1.6")
    [judged] = verdicts.judge([worse])
    assert judged.departs
    assert judged.beside_published == "departs (1.6)"
    [unpublished] = verdicts.judge([claims.higher(evidence, vanilla, csa, "Nobody says so")])
    assert not unpublished.departs
    drawing = sections.Drawn("layers", studies.load("layers"), parts={"": evidence},
                           claims=[replace(worse, study="layers")])  # fmt: skip
    page_sections, verdict = sections.sections([drawing], embedded=True)
    note = "1 published claims could be tested: 0 agree, 1 depart (Less is more)."
    assert note in page_sections[1].notes
    text = sections.markdown([drawing], verdict, embedded=True)
    assert "| departs (1.6) |" in text
    assert sections.EMBEDDED in text


def test_what_the_network_was_made_to_show_is_no_evidence(evidence: Evidence) -> None:
    name = next(iter(sorted(trained_to_show("patchwork_vit"))))
    study, _, text = name.partition(": ")
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    claim = replace(claims.higher(evidence, csa, vanilla, text, published="1.2"), study=study)
    for backbone, standing in (("patchwork_vit", verdicts.MADE), ("ViT-B-16", verdicts.TESTED)):
        [judged] = verdicts.judge([replace(claim, backbones=frozenset([backbone]))])
        assert (judged.answer, judged.standing) == (verdicts.HOLDS, standing)
        word = "made to" if standing == verdicts.MADE else "agrees"
        assert judged.beside_published == f"{word} (1.2)"
    assert trained_to_show("no such network") == frozenset()


def test_each_line_of_the_card_is_a_claim_of_the_page() -> None:
    docs = Path(__file__).parents[2] / "docs" / "verdicts.md"
    rows = [line.strip("| ").split(" | ") for line in docs.read_text("utf-8").splitlines()
            if line.startswith("| ")]  # fmt: skip
    made_to_show = {f"{row[0]}: {row[1]}" for row in rows if row[3] == verdicts.MADE}
    repeated = {f"{row[0]}: {row[1]}" for row in rows if row[3] == verdicts.REPEATS}
    shown = {row[0] for row in rows}
    listed = {name for name in trained_to_show("patchwork_vit") if name.split(":")[0] in shown}
    assert made_to_show <= listed <= made_to_show | repeated


@pytest.mark.parametrize("photos", [2, 9])
def test_few_photos_are_described_without_a_verdict(photos: int, tmp_path: Path) -> None:
    evidence = replace(write(tmp_path, count=photos), whole={"shapes": 64})
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    for claim in (
        claims.higher(evidence, csa, vanilla, ""),
        claims.best(evidence, csa, [vanilla], ""),
        claims.alike(evidence, [csa], vanilla, 0.01, ""),
    ):
        assert answer(claim) == verdicts.NONE
        assert f"{photos} of 64 photos; a verdict needs 10" in why(claim)
        assert "[" not in why(claim)  # no interval of few photos
        assert "p =" not in why(claim)


def test_random_weights_have_no_verdict(tmp_path: Path) -> None:
    images = [f"photo_{index}" for index in range(12)]
    for label, skill in SKILLS.items():
        config = {"attention": {"residual": True, "mlp": True}, "backbone": {"seed": 3}}
        write_cell(tmp_path, label, skill, images, shape=(48, 64), config=config)
    evidence = Evidence(results.load(tmp_path))
    _, judged = sections.sections([sections.draw("main", studies.load("main"), evidence)])
    assert {v.answer for v in judged} == {verdicts.NONE}
    assert all("not computed" in v.why or "random (seed 3)" in v.why for v in judged)


def test_scores_at_chance_have_no_verdict(tmp_path: Path) -> None:
    """Both at random: whatever their difference is, it says nothing of attention."""
    evidence = write(tmp_path, {"csa": 0.05, "vanilla": 0.0}, count=40)
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    claim = claims.higher(evidence, csa, vanilla, "")
    assert answer(claim) == verdicts.NONE
    floors = results.floors(evidence.df).set_index("floor")["score"]
    assert f"not surely above {100 * floors.max():.1f}" in why(claim)
    assert floors.idxmax() in why(claim)


def test_best_and_alike(evidence: Evidence) -> None:
    everything = list(evidence.cells.index)
    csa, vanilla = named(evidence, "csa"), named(evidence, "vanilla")
    assert answer(claims.best(evidence, vanilla, everything, "")) == verdicts.FAILS
    assert answer(claims.best(evidence, csa, [vanilla, named(evidence, "maskclip")], "")) == "holds"
    highest = evidence.cells["miou"].max()
    assert answer(claims.alike(evidence, everything, csa, highest, "")) == verdicts.HOLDS
    vacuous = claims.alike(evidence, everything, csa, highest + 1e-6, "")
    assert answer(vacuous) == verdicts.NONE
    assert "all scores are below" in why(vacuous)
    assert answer(claims.alike(evidence, [vanilla], csa, 0.01, "")) == verdicts.FAILS
    tight = claims.alike(evidence, [named(evidence, "csa_q")], csa, 1e-6, "")
    assert answer(tight) != verdicts.HOLDS


def test_alike_holds_where_the_interval_lies_within(evidence: Evidence) -> None:
    csa, query = named(evidence, "csa"), named(evidence, "csa_q")
    row = evidence.difference(csa, query)
    reach = max(abs(row["low"]), abs(row["high"]))
    assert answer(claims.alike(evidence, [query], csa, 1.01 * reach, "")) == verdicts.HOLDS
    assert answer(claims.alike(evidence, [query], csa, 0.99 * reach, "")) != verdicts.HOLDS


def test_pairs_are_compared_on_the_images_that_both_have(tmp_path: Path) -> None:
    write(tmp_path, {"csa": 0.8}, count=16)
    images = [f"photo_{index}" for index in range(16)]
    write_cell(tmp_path, "vanilla", 0.2, images, photos=12, shape=(48, 64))
    df = Evidence(results.load(tmp_path, partial=True)).on_common_images().df
    assert set(df["image"]) == set(images[:12])
    part = Evidence(df, whole={"shapes": 16})
    assert part.part == "12 of 16 images of shapes"
    pair = [named(part, name) for name in ("csa", "vanilla")]
    assert answer(claims.higher(part, *pair, "")) == "holds"


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
            write_cell(tmp_path, label, skill, images, names={"backbone": backbone},
                       seed=len(backbone))  # fmt: skip
    evidence, study = Evidence(results.load(tmp_path)), studies.load("vocabulary")
    for setting, part in study.settings(evidence):
        axis_label = study.figures(part)["vocabulary"].get_label()
        assert ("one and the same token" in axis_label) == setting.startswith("patchwork_vit")


def test_a_method_may_have_several_protocols_of_its_own(tmp_path: Path) -> None:
    images = ["a", "b", "c"]
    cells = [("csa", "unified"), *(("clearclip", p) for p in ("unified", "clearclip", "freecp"))]
    for number, (variant, protocol) in enumerate(cells):
        write_cell(
            tmp_path, variant, 0.2 + 0.2 * number, images, names={"protocol": protocol}, seed=number
        )
    evidence, study = Evidence(results.load(tmp_path)), studies.load("methods")
    facts = {claim.text: claim for claim in study.claims(evidence)}
    for protocol in ("clearclip", "freecp"):
        claim = f"clearclip is better under protocol {protocol} than under the one that all share"
        assert f"clearclip · {protocol} at" in facts[claim].facts
        keys = {c.key for c in (*facts[claim].tests, *facts[claim].family)}
        assert len(keys) == 2
    ticks = study.figures(evidence)["methods_own"].axes[0].get_yticklabels()
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
            write_cell(tmp_path, variant, SKILLS[variant], images, config=config)
    study = studies.load("robustness")
    figure = study.figures(Evidence(results.load(tmp_path)))["robustness"]
    assert "blur of sigma 0.7, 1.5, 3 pixels" in figure.get_label()
    lines = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert lines == {"vanilla": COLORS[0], "csa": COLORS[2]}  # as in every chart


@pytest.mark.parametrize(
    ("photos", "expected"), [(1, verdicts.NONE), (9, verdicts.NONE), (12, verdicts.HOLDS)]
)
def test_few_measured_photos_decide_nothing(evidence: Evidence, photos: int, expected: str) -> None:
    rows = [
        {"spec": named(evidence, name), "image": f"photo_{k}", "measure": "spatial_invariance",
         "value": value + 0.01 * k}
        for k in range(photos) for name, value in (("vanilla", 0.9), ("csa", 0.5))
    ]  # fmt: skip
    measured = replace(evidence, measured=pd.DataFrame(rows))
    assert answer(studies.load("attention").claims(measured)[0]) == expected


def test_a_diagnostic_is_judged_by_its_paired_mean(evidence: Evidence) -> None:
    draw = np.random.default_rng(0)
    values = {name: draw.normal(mean, 0.3, 12) for name, mean in (("vanilla", 0.8), ("csa", 0.6))}
    rows = [
        {"spec": named(evidence, name), "image": f"photo_{k}", "measure": "spatial_invariance",
         "value": value}
        for name, row in values.items() for k, value in enumerate(row)
    ]  # fmt: skip
    claim = studies.load("attention").claims(replace(evidence, measured=pd.DataFrame(rows)))[0]
    gaps = values["csa"] - values["vanilla"]
    assert claim.tests[0].p == pytest.approx(intervals.mean_p(gaps))
    assert claim.tests[0].p >= scipy.stats.ttest_rel(values["csa"], values["vanilla"]).pvalue
    low, high = intervals.mean_interval(gaps)
    assert f"[{low:+.2f}, {high:+.2f}] on 12 photos" in claim.facts


def test_random_projections_are_drawn_with_their_seeds(tmp_path: Path) -> None:
    images, counts = ["a", "b", "c"], {"csa_random": (1, 2), "csa_random_full": (1,)}
    for variant, sizes in counts.items():
        for count in sizes:
            for seed in range(5):
                config = {"attention": {"count": count, "seed": seed}}
                label = f"{variant}(count={count}, seed={seed})"
                write_cell(tmp_path, label, 0.5 + 0.01 * seed, images,
                           config=config, names={"attention": variant})  # fmt: skip
    evidence, study = Evidence(results.load(tmp_path)), studies.load("projections")
    (ax,) = study.figures(evidence)["projections_ensemble"].axes
    assert [len(line.get_xdata()) for line in ax.lines if line.get_marker() == "_"] == [5, 5]
    table = study.tables(evidence)["projections_random"]
    assert table[["matrices", "seeds"]].to_numpy().tolist() == [[1, 5], [2, 5], [1, 5]]


@pytest.mark.parametrize(("study", "question"), [("projections", "projection"),
                                                 ("alternatives", "alternatives")])  # fmt: skip
def test_answers_where_csa_has_no_gain(tmp_path: Path, study: str, question: str) -> None:
    for label in ("vanilla", "csa", "csa_q", "sharpened(temperature=0.5)"):
        config = {"attention": {"temperature": 0.5}} if "(" in label else {}
        write_cell(tmp_path, label, 0.5, ["a", "b", "c"], config=config)
    text = studies.load(study).answers[question](Evidence(results.load(tmp_path)))
    assert "0.0 without a gain" in text


# ---------------------------------------------------------------- the page


def test_a_page_is_one_file_that_escapes_names(evidence: Evidence, tmp_path: Path) -> None:
    study = studies.load("main")
    bad = page.Row({"claim": "<script>alert(1)</script>", "because": "a & b"})
    table = pd.DataFrame({"variant": ["a_b <i>", "50 %"], "mIoU": [0.25, np.nan]})
    table.attrs["bold"] = {"mIoU": [True, False]}
    section = page.Section("odd", "odd & even", rows=[bad], tables={"odd": table})
    drawing = sections.draw("main", study, evidence)
    made, judged = sections.sections([drawing])
    files = page.write([*made, section], tmp_path, "a title")
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
    assert pd.read_csv(tmp_path / "odd.csv")["mIoU x100"][0] == 25.0
    table = pd.read_csv(tmp_path / "verdicts.csv")
    assert set(table["study"]) == {"main"}
    assert "CSA is better than vanilla attention" in sections.markdown([drawing], judged)


# ---------------------------------------------------------------- the ten questions


def test_each_question_has_a_study_that_answers_it() -> None:
    answered = {key for name in studies.names() for key in studies.load(name).answers}
    assert answered == set(questions.QUESTIONS)
    assert len(questions.QUESTIONS) == 10


def test_the_page_begins_with_ten_questions_answered_in_numbers(evidence: Evidence) -> None:
    drawing = sections.draw("main", studies.load("main"), evidence)
    missing = sections.draw("backbones", studies.load("backbones"), None, ["no weights here"])
    (first, *_), _ = sections.sections([drawing, missing], embedded=True)
    answers = {row.cells["question"]: row for row in first.rows}
    assert list(answers) == list(questions.QUESTIONS.values())
    gains = answers[questions.QUESTIONS["gains"]]
    assert gains.links == {"study": "#main"}
    assert gains.cells["answer"].startswith(questions.WORLD + "shapes: most on")
    text = answers[questions.QUESTIONS["foundation"]].cells["answer"]
    assert text.endswith("no answer here: no weights here.")
    text = answers[questions.QUESTIONS["projection"]].cells["answer"]
    assert text == "not asked here: sclip-lab paper projections"


def test_random_weights_answer_no_question(tmp_path: Path) -> None:
    for label in ("csa", "vanilla"):
        write_cell(tmp_path, label, 0.5, "abc", config={"backbone": {"seed": 4}})
    drawing = sections.draw("main", studies.load("main"), Evidence(results.load(tmp_path)))
    (first, *_), _ = sections.sections([drawing])
    texts = [row.cells["answer"] for row in first.rows if "#main" in row.links.values()]
    assert texts == ["no answer, weights are random (seed 4)."]


# ---------------------------------------------------------------- studies of plug-ins


def test_a_plug_in_adds_a_study(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
from sclip_lab.paper.claims import higher
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import spec

def claims(evidence):
    csa, vanilla = (spec(evidence, variant=name) for name in ("csa", "vanilla"))
    return [higher(evidence, csa, vanilla, "Mine is better")]

STUDIES = {"studyofmine": Study("Is mine better?", claims), "main": Study("Taken?", claims)}
"""
    (tmp_path / "ideas_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LabError, match="unknown study 'studyofmine'"):
        studies.load("studyofmine")
    monkeypatch.setenv("SCLIP_LAB_PLUGINS", "ideas_of_mine")
    assert "studyofmine" in studies.names()
    assert studies.load("main").question != "Taken?"
    drawing = sections.draw("studyofmine", studies.load("studyofmine"), evidence)
    assert list(drawing.tables) == ["studyofmine"]  # the usual table
    _, [verdict] = sections.sections([drawing])
    assert (verdict.claim.name, verdict.answer) == ("studyofmine: Mine is better", verdicts.HOLDS)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 9])
def test_no_photo_is_shown_twice(tmp_path: Path, count: int) -> None:
    chosen = [
        name
        for names in qualitative.chosen(write(tmp_path, count=count)).values()
        for name in names
    ]
    assert len(chosen) == len(set(chosen)) == min(count, 3 if count < 6 else 6)
