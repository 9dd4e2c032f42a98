"""The schema of a composed configuration.

It only checks that the groups of a cell (attention, backbone, dataset, protocol, guidance) are
mappings. The objects that are built from them check their values.
"""

from __future__ import annotations

import difflib
import os
from typing import Annotated, Any, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import LARGEST_SEED, check, leaves, shown

LONGEST_NAME = 255  # bytes of a file's or folder's name


def _is_path(text: str) -> str:
    try:
        longest = max(len(part) for part in os.fsencode(text).split(os.sep.encode()))
    except UnicodeEncodeError:
        longest = LONGEST_NAME + 1
    if not text.strip() or "\0" in text or longest > LONGEST_NAME or text[0] == "~":
        raise ValueError("the path of a folder, without ~")
    return text


Count = Annotated[int, Field(ge=0, le=10**9)]
Folder = Annotated[str, AfterValidator(_is_path)]
Group = dict[Any, Any]


class Model(BaseModel):
    """A mapping of the configuration. Values are not converted.

    Other keys are allowed, because a preset may define one for its own interpolations. A key that
    nearly equals one of the model's is refused: it is a slip, which would be ignored silently.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_slips(self) -> Self:
        fields = type(self).model_fields
        for key in map(str, self.model_extra or {}):
            if difflib.get_close_matches(key, fields, cutoff=0.75):
                raise unknown("key", key, fields)
        return self


class Pictures(Model):
    """What the store keeps for figures: the number of photos, and of points in each."""

    images: Count
    points: Annotated[int, Field(ge=0, le=1000)]


class Diagnostics(Model):
    """Names of measures (None: no measure), the number of images to measure (None: all), and
    whether to measure every layer too."""

    measures: list[str] | None
    images: Count | None
    layers: bool = False


class Tracking(Model):
    """Where W&B writes, and the number of photos that it shows."""

    mode: str
    group: str | None
    images: Annotated[int, Field(ge=0, le=10**6)]
    project: str | None = None
    entity: str | None = None


class Paths(Model):
    """Folders of the store and of the data sets."""

    store: Folder
    data: Folder = "data"


class Settings(Model):
    """The keys of conf/config.yaml, which explains them."""

    attention: Group
    backbone: Group
    dataset: Group
    protocol: Group
    guidance: Group | None = None
    readout: Group | None = None
    refinement: Group | None = None
    pictures: Pictures
    diagnostics: Diagnostics
    tracking: Tracking
    paths: Paths
    pretrained: str | None = None
    checkpoint: str | None = None
    precision: str = "fp32"
    device: str = "auto"
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    batch_images: Annotated[int, Field(ge=1, le=65_536)] | None = None
    batch_windows: Annotated[int, Field(ge=1, le=65_536)] | None = None
    trunk_cache: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    shard: Annotated[list[Count], Field(min_length=2, max_length=2)] = [0, 1]
    on_error: str = "stop"
    progress: bool = True
    plugins: list[str] | None = None


# Groups of a cell. The objects that are built from them report missing values.
PARTS = ("attention", "backbone", "dataset", "protocol", "guidance")
_WORDS = {
    "dict_type": "a mapping, or a file of its folder in conf",
    "model_type": "a mapping, or a file of its folder in conf",
    "int_type": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "too_short": "a list of 2 numbers, index and count",
    "too_long": "a list of 2 numbers, index and count",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "value_error": "{error}",
}


def check_settings(config: DictConfig) -> dict[str, Any]:
    """Check a composed configuration.

    Returns:
        the configuration without Hydra's own section, as plain values.

    Raises:
        LabError: a value of a wrong type or range, or a reference to a key that does not exist.
    """
    for key in PARTS:  # other keys refer to values in these
        if OmegaConf.is_list(config.get(key)):
            raise LabError(f"{key}: a list; must be a mapping, or a file of its folder in conf")
    ours: Any = OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"])
    try:
        values: Any = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise LabError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    for key, value in leaves(values):
        group, dot, _ = key.partition(".")
        if value == "???" and not (dot and group in PARTS):
            raise LabError(f"{key}: needs a value; '???' only marks its place")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise LabError(_first(error)) from None
    check("protocol.expected", settings.protocol.get("expected"), list[dict[str, Any]] | None)
    for group in PARTS:
        name = (values.get(group) or {}).get("name", "???")
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise LabError(f"{group}.name: {shown(name)} must be text")
    index, count = settings.shard
    if index >= count:
        raise LabError(
            f"shard: {settings.shard} must be index and count, the index below the count"
        )
    weights, of_backbone = settings.checkpoint, settings.backbone.get("checkpoint")
    if weights not in (None, of_backbone):
        raise LabError(
            f"checkpoint={shown(weights)}: this backbone has a file of its own; replace it by "
            "backbone.checkpoint=<file>"
        )
    return dict(values)


def _first(error: ValidationError) -> str:
    """The first error of pydantic, worded like those of `sclip_lab.core.values`."""
    details = error.errors()[0]
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "missing":
        return f"{key}: needs a value"
    if isinstance(slip := details.get("ctx", {}).get("error"), LabError):
        return f"{key}: {slip}" if key else str(slip)
    words = _WORDS.get(details["type"], details["msg"])
    return f"{key}: {shown(details['input'])} must be {words.format(**details.get('ctx', {}))}"
