"""Labels of specs are unique, short, and never NaN."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sclip_lab.results.store.spec_labels import labels


def table(**columns: list[object]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    base = {"spec": [f"{n:012x}" for n in range(count)], "attention": ["csa"] * count}
    base |= {"backbone": ["tiny"] * count, "dataset": ["d"] * count, "protocol": ["p"] * count}
    return pd.DataFrame(base | columns)


def test_only_what_tells_rows_apart_is_named() -> None:
    assert labels(table(attention=["csa", "vanilla"])) == ["csa", "vanilla"]
    assert labels(table(protocol=["a", "b"])) == ["csa · a", "csa · b"]
    mixed = table(attention=["csa", "csa", "vanilla"], backbone=["b", "l", "b"])
    assert labels(mixed) == ["csa · b", "csa · l", "vanilla"]


def test_readouts_are_named_by_their_function_and_never_nan() -> None:
    column = "protocol.readout"
    varied = table(
        **{
            f"{column}._target_": ["x.y.surgery", None, "x.y.maskclip", "x.y.maskclip"],
            f"{column}.sharpness": [2.0, np.nan, np.nan, np.nan],
            f"{column}.smoothing": [np.nan, np.nan, 0.5, 1.0],
        }
    )
    assert labels(varied) == [
        "csa · surgery",
        "csa · cosine",
        "csa · maskclip · smoothing 0.5",
        "csa · maskclip · smoothing 1",
    ]


def test_views_that_count_are_named() -> None:
    weights = {"photo": [1.0, 0.0, 0.0], "blur": [0.0, 1.0, 0.5], "noise": [0.0, 0.0, 0.5]}
    columns = {f"protocol.views.{name}.weight": values for name, values in weights.items()}
    assert labels(table(**columns)) == ["csa · photo", "csa · blur", "csa · blur + noise"]


def test_specs_that_nothing_tells_apart_get_their_keys() -> None:
    names = labels(table(attention=["csa", "csa", "vanilla"]))
    assert names[2] == "vanilla"
    assert len(set(names)) == 3
