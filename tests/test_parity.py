"""Every method against the official code of its method, on a toy CLIP.

Walks the folder of official outputs (`tests.parity.vector_set`), so that a new file there is tested
the moment it exists. tests/parity holds the comparisons, tests/parity_cases.yaml says which variant
a file of features belongs to, and ``make parity VECTORS=<folder>`` runs the same on another set.
"""

from __future__ import annotations

import json

import pytest

from tests import make_clip, vectors
from tests.parity import features
from tests.parity.compare import FEATURES, HALF_FEATURES, WEIGHTS, compare, difference, registered
from tests.parity.features import CASES, run
from tests.parity.vector_set import default_set

__all__ = ["CASES", "FEATURES", "HALF_FEATURES", "WEIGHTS", "difference", "prepared", "run"]


def prepared(case):
    """(backbone, variant) of a case on the default set."""
    return features.setup(default_set(), case)


def test_generator_draws_what_the_official_code_was_run_on() -> None:
    expected = json.loads(vectors.find("digests.json").read_text())
    seed = make_clip.SEEDS["public"]["weights"]
    assert make_clip.digest(make_clip.make_state_dict(seed)) == expected["weights"]
    assert make_clip.digest(make_clip.make_inputs("public")) == expected["inputs"]
    assert make_clip.digest({"t": make_clip.make_text("public")}) == expected["text"]
    assert make_clip.digest({"p": make_clip.make_photo("public")}) == expected["photo"]


def test_every_official_output_is_compared() -> None:
    missing = [n for n in default_set().files if n not in registered()]
    assert not missing, f"add a comparison to tests/parity: {', '.join(missing)}"


@pytest.mark.parametrize("name", [name for name in default_set().files if name in registered()])
def test_official_output(name: str) -> None:
    comparisons = compare(default_set(), name)
    assert comparisons, f"nothing of {name}.npz was compared"
    wrong = [str(one) for one in comparisons if not one.ok]
    assert not wrong, f"{name}: " + "; ".join(wrong)
