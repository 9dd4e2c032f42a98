"""Functions of a notebook: their key changes with their code and with what they use."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import locate
from sclip_lab.core.identity import described, of_function, remembered
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.testing import check_variant

_cells = count()


def cell(
    source: str, name: str = "f", variables: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """A function of a notebook's cell: its source is known to Python, but is in no file."""
    file = f"<cell {next(_cells)}>"
    text = textwrap.dedent(source)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "__main__", "torch": torch, **(variables or {})}
    exec(compile(text, file, "exec"), space)
    return space[name]


SHARP = "def f(ctx, temperature=1.0):\n    return ctx.attention('query', 'key', temperature)\n"


def test_a_function_equals_the_yaml_that_does_the_same(backbone: Backbone, images: Tensor) -> None:
    custom = lab.variant(cell(SHARP), temperature=0.5)
    check_variant(custom, row_sum=1.0)
    same = lab.load_attention("vanilla", temperature=0.5)
    ours, theirs = (dense_features(backbone, images, v) for v in (custom, same))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert custom.name == "f"
    assert custom.config["temperature"] == 0.5
    assert custom.config["_target_"].startswith("__main__.f#")
    with pytest.raises(LabError, match="did you mean temperature"):
        lab.variant(cell(SHARP), temprature=0.5)


def key(source: str, variables: dict[str, Any] | None = None) -> str:
    return lab.variant(cell(source, variables=variables)).key


def test_the_key_is_the_code() -> None:
    assert key(SHARP) == key(SHARP)
    assert key(SHARP) == key(SHARP.replace("):\n", '):\n    """Words."""  # more\n', 1))
    changed = [
        SHARP,
        SHARP.replace("temperature)\n", "temperature / 1.1)\n"),
        SHARP.replace("1.0", "1.5"),
        SHARP.replace("key", "query"),
    ]
    assert len({key(source) for source in changed}) == len(changed)


def test_the_key_is_what_the_code_uses() -> None:
    uses = "def f(ctx):\n    return g(ctx.scores() * W).softmax(-1)\n"
    helper = "def f(x):\n    return x * 2\n"
    other = helper.replace("2", "3")
    values: list[dict[str, Any]] = [
        {"g": cell(helper), "W": 1.0},
        {"g": cell(other), "W": 1.0},
        {"g": cell(helper), "W": 2.0},
        {"g": cell(helper), "W": torch.ones(3)},
        {"g": cell(helper), "W": torch.zeros(3)},
        {"g": cell(helper), "W": [1, {"a": 2.0}]},
        {"g": torch.relu, "W": 1.0},
    ]
    keys = [key(uses, variables) for variables in values]
    assert len(set(keys)) == len(keys)
    assert key(uses, {"g": cell(helper), "W": 1.0}) == keys[0]


def test_the_key_is_what_the_code_closes_over() -> None:
    def made(factor: float) -> Callable[..., Any]:
        def weights(ctx: Any) -> Any:
            return (factor * ctx.scores()).softmax(-1)

        return weights

    assert lab.variant(made(1.0)).key == lab.variant(made(1.0)).key
    assert lab.variant(made(1.0)).key != lab.variant(made(2.0)).key
    # A line that is no function of its own has its bytecode in the key.
    one, two = (lambda ctx: ctx.scores()), (lambda ctx: 2 * ctx.scores())
    assert of_function(one) != of_function(two)


def test_a_source_that_is_not_what_runs_is_not_believed() -> None:
    function = cell(SHARP)
    before = of_function(function)  # type: ignore[arg-type]
    file = function.__code__.co_filename
    newer = SHARP.replace("key", "query")
    linecache.cache[file] = (len(newer), None, newer.splitlines(keepends=True), file)
    assert of_function(function) != of_function(cell(newer))  # type: ignore[arg-type]
    assert of_function(function) != before  # type: ignore[arg-type]


def test_what_no_key_can_be_made_of() -> None:
    with pytest.raises(LabError, match="f uses global thing, a object, which no key"):
        key("def f(ctx):\n    return thing\n", {"thing": object()})
    with pytest.raises(LabError, match="no plain function"):
        lab.variant(torch.nn.Linear(2, 2))
    with pytest.raises(LabError, match="parameters of a partial by name"):
        described(partial(cell(SHARP), None))
    with pytest.raises(LabError, match="a function of another session"):
        locate("__main__.f#0123")


def test_parts_of_a_variant(backbone: Backbone, images: Tensor) -> None:
    prior = cell("def f(anything, by=1.0):\n    return by * torch.ones(1, 1, 1, 1)\n")
    custom = lab.variant(cell(SHARP), prior=partial(prior, by=2.0))
    assert custom.config["prior"]["by"] == 2.0
    # A constant on all scores changes nothing.
    plain = dense_features(backbone, images, lab.variant(cell(SHARP)))
    torch.testing.assert_close(dense_features(backbone, images, custom), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", ["block, state, ctx", "x, y, z"])
def test_a_block_edit_is_declared(names: str, backbone: Backbone, images: Tensor) -> None:
    block, state, _ = names.split(", ")
    source = f"def f({names}):\n    return S({block}.plain({state}.tokens), None, None)\n"
    from sclip_lab.network.context import State

    function = cell(source, variables={"S": State})
    with pytest.raises(LabError, match="needs a value for"):
        lab.variant(function)
    edit = lab.variant(lab.block_edit(function))
    trained = dense_features(backbone, images, lab.load_attention("vanilla"))
    ours = dense_features(backbone, images, edit)
    torch.testing.assert_close(ours, trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ctx", "block", "grid", "anything"])
def test_names_of_parameters_decide_nothing(name: str, backbone: Backbone, images: Tensor) -> None:
    custom = lab.variant(cell(SHARP.replace("ctx", name)))
    same = dense_features(backbone, images, lab.load_attention("vanilla"))
    torch.testing.assert_close(dense_features(backbone, images, custom), same, atol=1e-5, rtol=0)


def test_an_evaluation_with_functions_alone(
    backbone: Backbone, photos: Folder, tmp_path: Any
) -> None:
    """A variant, a readout and refinements of one's own, and their keys in the store."""
    readout = cell(
        "def f(seen, words, to=1.0):\n    return to * c(seen, words)\n", variables={"c": COSINE}
    )
    labels = lab.refines_labels(cell("def f(seen):\n    return seen.clone()\n"))
    logits = lab.refines_logits(cell("def f(image, x):\n    return x + 0 * image.mean()\n"))
    small = {"short_side": None, "crop_size": 64, "stride": 32, "templates": ("a photo of {}",)}
    usual = Protocol(**small)  # type: ignore[arg-type]
    custom = Protocol(
        readout=partial(readout, to=1.0),
        refinement={"one": logits, "two": labels},
        **small,  # type: ignore[arg-type]
    )
    assert custom.key != usual.key
    specs = [
        lab.Spec(lab.variant(cell(SHARP)), backbone, custom, photos, "own"),
        lab.Spec(lab.load_attention("vanilla"), backbone, usual, photos, "usual"),
    ]
    df = evaluate(specs, Store(tmp_path / "store"), progress=False)
    scores = lab.results.summary(df).set_index("attention")["miou"]
    assert scores["own"] == scores["usual"]
    with pytest.raises(LabError, match="must be declared by its decorator"):
        Protocol(refinement=cell("def f(x):\n    return x\n"))


def COSINE(encoded: Any, words: Tensor) -> Tensor:
    from sclip_lab.segmentation.readouts.cosine import cosine

    return cosine(encoded, words)


BAD: dict[str, tuple[str, str]] = {
    "shape": ("return torch.ones(3, 3)", r"4 x 4: .* gave \(3, 3\) .*; weights are"),
    "not finite": ("return ctx.attention() * torch.nan", "not finite"),
    "batch": ("a = ctx.attention()\n    return a + 0.1 * (a - a.mean(0, True))", "with its batch"),
    "writes": ("ctx.tokens.mul_(2)\n    return ctx.attention()", "writes in place"),
    "rows": ("return 2 * ctx.attention()", "rows of the weights sum to 1"),
    "class": ("a = ctx.attention()\n    return torch.full_like(a, 1 / a.shape[-1])", "class token"),
}


@pytest.mark.parametrize("fault", BAD)
def test_the_contract_names_what_is_wrong(fault: str) -> None:
    body, says = BAD[fault]
    variant = lab.variant(cell(f"def f(ctx):\n    {body}\n"), class_token=fault != "class")
    with pytest.raises(AssertionError, match=says):
        check_variant(variant, row_sum=1.0)


def test_remembered_functions_are_found() -> None:
    function = cell(SHARP)
    assert locate(remembered(function)) is function
