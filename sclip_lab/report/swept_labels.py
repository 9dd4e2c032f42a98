"""Labels without one of their parameters: what the points of a curve have in common."""

from __future__ import annotations

import re

from sclip_lab.results.store.labels import labels as labels


def without(label: str, parameter: str) -> str:
    """A label without one parameter: "csa" of "csa(temperature=2.0)" and "temperature"."""
    rest = re.sub(rf"([(,]\s*){re.escape(parameter)}=[^,()\[\]]*", r"\1", label)
    rest = re.sub(r",\s*(?=[,)])", "", rest)
    return re.sub(r"\(\s*,?\s*", "(", rest).replace("()", "")
