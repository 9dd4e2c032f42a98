"""The explorer: its maps are the network's, its page holds them, and a browser can use it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sclip_lab as lab
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.report.explorer.document import LEVELS, page
from sclip_lab.report.explorer.maps import Maps, look, sampled

VARIANTS = ("vanilla", "csa", "maskclip", "naclip", "clearclip", "surgery")


@pytest.fixture(scope="module")
def maps() -> Maps:
    scene = lab.load_dataset("patchwork", limit=4)[3]
    return look(
        lab.load_backbone("patchwork_vit"),
        scene.image,
        {name: lab.load_attention(name) for name in VARIANTS},
        Vocabulary.named("patchwork"),
        lab.load_protocol("sclip", "patchwork"),
        scene.mask,
    )


def content(html: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert match
    return json.loads(match[1])


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)


def pooled(rows: np.ndarray, maps: Maps) -> np.ndarray:
    """Means over squares of keys, one square at a time."""
    grid, side = rows.reshape(len(rows), *maps.grid), maps.pool
    tops, lefts = range(0, maps.grid[0], side), range(0, maps.grid[1], side)
    squares = [grid[:, r : r + side, c : c + side].mean((1, 2)) for r in tops for c in lefts]
    return np.stack(squares, axis=1)


def test_maps_are_those_of_the_network(maps: Maps) -> None:
    backbone, csa = lab.load_backbone("patchwork_vit"), lab.load_attention("csa")
    variant = maps.variants[1]
    patches = maps.grid[0] * maps.grid[1]
    image = torch.from_numpy(maps.image.copy()).permute(2, 0, 1)[None]
    features = lab.dense_features(backbone, image, csa, normalize=True)[0].flatten(0, 1)
    expected = (features @ features.T).numpy()
    np.testing.assert_allclose(variant.similarity, expected, atol=1e-5)
    assert variant.attention is not None
    # Two softmaxes; the class token takes its share of each row.
    assert variant.attention.shape == (patches, patches)
    assert (variant.attention.sum(1) <= 2 + 1e-5).all()
    assert variant.attention.sum(1).mean() > 1.5


def test_heads_average_to_the_map(maps: Maps) -> None:
    rows = sampled(maps.grid, maps.stride)
    for variant in maps.variants:
        if variant.attention is not None and variant.heads is not None:
            expected = pooled(variant.attention[rows], maps)
            np.testing.assert_allclose(
                variant.heads.mean(1), expected, atol=1e-6, err_msg=variant.label
            )


def test_the_trained_last_block_is_vanilla(maps: Maps) -> None:
    vanilla = maps.variants[0].attention
    assert vanilla is not None
    expected = pooled(vanilla[sampled(maps.grid, maps.stride)], maps)
    np.testing.assert_allclose(maps.layers[:, -1], expected, atol=1e-6)


def test_probabilities_are_sorted(maps: Maps) -> None:
    for variant in maps.variants:
        assert (np.diff(variant.probability, axis=1) <= 0).all()
        assert (variant.probability.sum(1) <= 1 + 1e-5).all()


def test_page_holds_the_maps(maps: Maps) -> None:
    shown = content(page(maps).html)
    for stored, variant in zip(shown["variants"], maps.variants, strict=True):
        assert stored["label"] == variant.label
        count = len(variant.similarity)
        triangle = 2 * unpacked(stored["similarity"]) / LEVELS - 1
        expected = variant.similarity[np.tril_indices(count)]
        assert np.abs(triangle - expected).max() <= 1 / LEVELS + 1e-6
        if variant.attention is None:
            assert stored["attention"] is None
            continue
        largest = unpacked(stored["attention"]["largest"]).view("<f4")
        roots = unpacked(stored["attention"]["maps"]).reshape(count, count) / LEVELS
        # Half a step of a square root of 0 .. 1 is at most (1 / LEVELS) of the largest weight.
        error = np.abs(largest[:, None] * roots**2 - variant.attention)
        assert (error <= largest[:, None] / LEVELS + 1e-7).all()
        top = unpacked(stored["top"]).view("<u2").reshape(-1, stored["topn"])
        np.testing.assert_array_equal(top, variant.top)


def test_page_stands_alone_and_is_small() -> None:
    scene = lab.load_dataset("patchwork", limit=4)[3]
    image = np.asarray(Image.fromarray(scene.image).resize((224, 224)))
    protocol = lab.load_protocol("sclip", "patchwork", short_side=224)
    html = lab.explore(image, attention=VARIANTS, protocol=protocol).html
    assert content(html)["grid"] == [28, 28]
    assert not re.search(r"""(?:src|href)=["']?(?!data:)""", html)
    assert "http" not in re.sub(r"data:image/[^\"]*", "", html)
    assert len(html) < 5e6


def test_names_cannot_leave_their_place() -> None:
    backbone = lab.load_backbone("patchwork_vit")
    evil = "</script><script>alert(1)</script>"
    image = np.zeros((64, 64, 3), np.uint8)
    result = page(
        look(
            backbone, image, {evil: lab.load_attention("csa")}, Vocabulary("e", ((evil,), ("b",)))
        ),
        evil,
    )
    assert evil not in result.html
    assert content(result.html)["classes"][0] == evil


def test_notebook_shows_it_by_itself(maps: Maps) -> None:
    shown = page(maps)._repr_html_()
    assert shown.startswith("<iframe")
    assert "srcdoc=" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": ["cssa"]}, "did you mean csa"),
        ({"attention": []}, "at least one"),
        ({"names": " ; "}, "a class each"),
        ({"mask": np.zeros((3, 3), int)}, "mask of"),
        ({"backbone": "patchwork_vitt"}, "did you mean patchwork_vit"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        lab.explore(np.zeros((64, 64, 3), np.uint8), **arguments)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    out = tmp_path / "a.html"
    arguments = ["explore", str(tmp_path / "a.png"), "--attention", "csa", "--out", str(out)]
    with pytest.warns(UserWarning, match="knows 16 words, not zebra:"):
        assert main([*arguments, "--names", "dots; stripes,zebra"]) == 0
    assert content(out.read_text())["classes"] == ["dots", "stripes"]
    assert str(out) in capsys.readouterr().out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, maps: Maps, tmp_path: Path) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.set_window_size(1300, 1000)
    browser.get("about:blank")
    browser.get(page(maps, "scene").save(tmp_path / "scene.html").as_uri())
    ready = "return document.body.dataset.ready === '1'"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(ready))
    return browser


def said(driver: Any, text: str) -> str:
    from selenium.webdriver.support.ui import WebDriverWait

    def status(driver: Any) -> str:
        return driver.find_element("id", "status").text

    WebDriverWait(driver, 20).until(lambda driver: text in status(driver))
    return status(driver)


@pytest.mark.slow
def test_mouse_and_keys_in_a_browser(opened: Any, maps: Maps) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    grid = opened.find_element("id", "grid")
    cell = opened.find_element("id", "patch-2-3")
    ActionChains(opened).move_to_element(cell).perform()
    spoken = said(opened, "Row 3, column 4.")
    patch = 2 * maps.grid[1] + 3
    for variant in maps.variants:  # what the page says is what the network said
        best, share = variant.top[patch, 0], variant.probability[patch, 0]
        assert f"{variant.label}: {maps.classes[best]} {round(100 * share)} %" in spoken or (
            abs(100 * share % 1 - 0.5) < 0.25  # rounded once more by the byte
        )
    ActionChains(opened).move_to_element(cell).click().perform()
    said(opened, "kept")
    ActionChains(opened).move_to_element(opened.find_element("id", "patch-5-5")).perform()
    assert "Row 3, column 4, kept" in said(opened, "kept")
    grid.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    said(opened, "Row 4, column 5, kept")
    assert "patch=3%2C4" in opened.current_url
    assert "kept=1" in opened.current_url
    grid.send_keys(Keys.ESCAPE)
    assert "kept" not in said(opened, "Row 4, column 5.")
    for select, kind_value in (("kind", "similarity"), ("kind", "labels"), ("kind", "attention")):
        opened.find_element("css selector", f"#{select} option[value={kind_value}]").click()
    opened.find_element("css selector", "#head option[value='1']").click()
    opened.find_element("css selector", "#scale option[value=shared]").click()
    WebDriverWait(opened, 20).until(lambda driver: "head=1" in driver.current_url)
    assert "scale=shared" in opened.current_url
    logs = [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    assert not logs


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1300, 1000), (390, 844)])
def test_no_fault_of_accessibility(opened: Any, size: tuple[int, int]) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    opened.set_window_size(*size)
    opened.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text())
    audit = opened.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert audit["passes"]
    assert [(v["id"], v["nodes"][0]["html"][:120]) for v in audit["violations"]] == []
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(wide) <= 0
