"""A variant: which blocks are rewritten, and how. Its yaml builds it, its content identifies it.

A yaml of ``conf/attention`` names a function of this package under ``_target_``. A *weights
function* ``(ctx, **parameters) -> weights`` only computes attention weights; the keys that all
variants have, in ``conf/attention/_variant.yaml``, say how the weights are used. A *block edit*
``(block, state, ctx, **parameters) -> state`` replaces the whole block and is declared by
`sclip_lab.core.functions.block_edit`.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError, about
from sclip_lab.core.functions import (
    bind,
    bind_config,
    block_edit,
    entry_function,
    hidden_function,
    kind_of,
    locate,
    mix_function,
    prior_function,
    prior_of_grid,
    repair_function,
    used,
    weights_function,
    written_out,
)
from sclip_lab.core.identity import described, digest, plain
from sclip_lab.core.values import check, form
from sclip_lab.network.block import Block
from sclip_lab.network.context import BlockInput, Context, Grid, State
from sclip_lab.network.depth import resolve_all
from sclip_lab.network.text import Text

log = logging.getLogger(__name__)

COMMON: dict[str, Any] = {
    "layers": [-1],
    "residual": True,
    "mlp": True,
    "stream": "replace",
    "class_token": True,
    "prior": None,
    "mix": None,
    "repair": None,
    "entry": None,
    "hidden": None,
}
LARGEST_FILE = 8 << 30  # bytes of a file that a parameter names
# Common keys that change a variant's map; the others say how the map is used.
OF_MAP = ("class_token", "prior", "mix")
# The kinds of functions that ``_target_`` and the parts of a variant may name.
FUNCTIONS = (weights_function, block_edit)
PARTS = {
    "prior": (prior_function, prior_of_grid),
    "mix": (mix_function,),
    "repair": (repair_function,),
    "entry": (entry_function,),
    "hidden": (hidden_function,),
}
_names: list[Callable[[str], Mapping[str, Any]]] = []


def names_by(load: Callable[[str], Mapping[str, Any]]) -> None:
    """Set the function that returns the content of a variant's yaml for the variant's name."""
    _names[:] = [load]


@dataclass(frozen=True)
class Variant:
    """How chosen blocks compute attention.

    Attributes:
        name: the yaml's name, for people; not part of the identity.
        config: every value of the yaml, with defaults.
        key: digest of ``config`` and of the files it names; equal keys compute the same thing.
        edit_key: digest without ``layers``: variants with equal edits of one input share the work.
        modules: Python modules of its functions, for the code version.
        uses: what its functions are marked to read, see `sclip_lab.core.functions.uses`.
        maps: the content of the variants whose maps its parameters name.
    """

    name: str
    config: Mapping[str, Any]
    key: str
    edit_key: str
    modules: tuple[str, ...]
    uses: frozenset[str]
    maps: Mapping[str, Any]
    _function: partial[Any] = field(repr=False, compare=False)  # weights function or block edit
    _parts: Mapping[str, partial[Any] | None] = field(repr=False, compare=False)
    _text: Text | None = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.key)

    def layers(self, depth: int) -> list[int]:
        """Sorted 0-based indices of the rewritten blocks.

        Raises:
            LabError: an index out of range for this depth; the error names the variant.
        """
        with about(f"attention '{self.name}'"):
            return resolve_all(self.config["layers"], depth)

    def given(self, text: Text | None) -> Variant:
        """Return the variant with a protocol's texts, which become part of its keys. The variant
        itself is returned if it reads no texts, or if ``text`` is None."""
        if text is None or "text" not in self.uses:
            return self
        key, edit_key = (digest([k, text.digest]) for k in (self.key, self.edit_key))
        return replace(self, key=key, edit_key=edit_key, _text=text)

    def first(self, depth: int) -> int:
        """Index of the first block whose input or computation is not as trained."""
        early = self.entry_key is not None or self._hidden_key is not None
        return 0 if early else self.layers(depth)[0]

    def content_of_map(self) -> dict[str, Any]:
        """The settings that determine the map; a file counts by its content, not its path."""
        ignored = [key for key in COMMON if key not in OF_MAP]
        config = {key: value for key, value in self.config.items() if key not in ignored}
        return _content({**config, **self.maps})

    @cached_property
    def entry_key(self) -> str | None:
        """Key of the tokens that the variant adds: equal keys add the same tokens; None: none."""
        return digest(_content(self.config["entry"])) if self._parts["entry"] else None

    @cached_property
    def _hidden_key(self) -> str | None:
        return digest(_content(self.config["hidden"])) if self._parts["hidden"] else None

    @property
    def replaces_block(self) -> bool:
        """Whether its function is a block edit, which has no map for other variants."""
        return kind_of(self._function) is block_edit

    def key_at(self, level: int, depth: int) -> str | None:
        """Key of what the variant does to block ``level`` of ``depth``: equal keys do the same to
        equal inputs; None: the block runs as trained."""
        return self.edit_key if level in self.layers(depth) else self._hidden_key

    def enter(self, tokens: Tensor, grid: Grid, block: Block) -> Tensor:
        """Append the variant's own tokens to ``tokens``, (batch, tokens, width), which enter the
        first block, unless they are there already."""
        entry = self._parts["entry"]
        if entry is None or tokens.shape[1] > block.prefix + math.prod(grid):
            return tokens
        return torch.cat([tokens, block.tower.first_norm(entry(tokens)).to(tokens)], dim=1)

    def apply(self, entered: BlockInput, state: State, context: Context) -> State:
        """Run one block that the variant changes, and return the state behind the block.

        All variants share ``context``; this method adds the variant's own choices to it. It warns
        once if the attention has no use for the variant's prior.
        """
        scene, grid = context.scene, context.grid
        # A function reads only what it declares; otherwise the key would be incomplete.
        hidden_from_it = [name for name in ("guidance", "labels") if name not in self.uses]
        scene = replace(scene, **dict.fromkeys(hidden_from_it))
        context = replace(
            context, scene=scene, class_token=self.config["class_token"], texts=self._text
        )
        block, hidden = entered.block, self._parts["hidden"]
        if hidden is not None:
            block = block.with_hidden(lambda b, values: hidden(b, values, grid), self._hidden_key)
        if block.index not in self.layers(block.depth):
            return replace(state, tokens=block.plain(state.tokens))
        edit = self._function if self.replaces_block else self._rewrite
        term, calls = self._prior(context), []
        if term is None:
            return edit(block, state, context)

        def counted(ctx: Context) -> Tensor:
            calls.append(ctx.block.index)
            return term(ctx)

        after: State = edit(block, state, replace(context, prior=counted))
        if not calls:
            _warn_that_prior_is_ignored(self.name)
        return after

    def map(self, context: Context) -> Tensor:
        """This variant's attention map in another variant's block: (batch, heads, tokens, tokens).

        This variant's prior and mix apply; layers, residual, MLP and stream are the other's. The
        class token is open to patches only if both variants leave it open.
        """
        class_token = context.class_token and self.config["class_token"]
        return self._weights(replace(context, class_token=class_token, prior=self._prior(context)))

    def _weights(self, context: Context) -> Tensor:
        weights: Tensor = self._function(context)
        mix = self._parts["mix"]
        weights = weights if mix is None else mix(context, weights)
        square = (context.tokens.shape[1],) * 2
        is_map = isinstance(weights, Tensor) and weights.is_floating_point() and weights.ndim == 4
        if not is_map or weights.shape[-2:] != square:
            raise LabError(
                f"attention '{self.name}' gave {form(weights)}; weights are a Tensor of floats, "
                f"(batch, heads, tokens, tokens), here (.., .., {square[0]}, {square[0]})"
            )
        return weights

    def _prior(self, context: Context) -> Callable[[Context], Tensor] | None:
        """The prior as a function of the context; a prior of the grid alone is computed once."""
        prior = self._parts["prior"]
        if prior is None or kind_of(prior) is not prior_of_grid:
            return prior
        matrix = context.block.among_tokens(prior(context.grid)).to(context.tokens.device)
        more = context.tokens.shape[1] - matrix.shape[-1]
        matrix = F.pad(matrix, (0, more, 0, more)) if more else matrix
        return lambda _: matrix

    def _rewrite(self, block: Block, state: State, context: Context) -> State:
        """Run the block with the variant's weights A: y = [x +] O(A), then y [+ M(y)].

        ``stream: parallel`` puts y on a dense stream beside the trained one, as in CLIP Surgery,
        GEM and ClearCLIP's last n; ``replace`` puts it on the only stream.
        """
        parallel = self.config["stream"] == "parallel"
        repaired = self._repaired(context)
        start = repaired.tokens if self.config["residual"] else None
        # The dense stream starts from the first rewritten block's input, or from nothing.
        if parallel and state.dense is not None:
            start = state.dense

        def finish(attention: Tensor) -> Tensor:
            tokens = block.output(attention, repaired.value)
            if start is not None:
                tokens = start + tokens
            if not self.config["mlp"]:
                return tokens
            return block.with_mlp(tokens, repaired.tokens if start is None else start)

        attention = self._weights(replace(repaired, finish=finish))
        if not parallel:
            return replace(state, tokens=finish(attention), attention=attention)
        key = ("plain", block.hidden_key)
        plain_tokens = context.input.once(key, lambda: block.plain(state.tokens))
        return replace(state, tokens=plain_tokens, dense=finish(attention), attention=attention)

    def _repaired(self, context: Context) -> Context:
        repair = self._parts["repair"]
        if repair is None:
            return context
        # Cached with the block's input, so that variants with the same repair share its q, k, v.
        key = ("repaired", repair.func, digest(plain(repair.keywords)))
        entered = context.input.once(key, lambda: BlockInput(context.block, repair(context)))
        return replace(context, input=entered)


@dataclass(frozen=True)
class Map:
    """The attention map of one variant as a parameter of another, (batch, heads, tokens, tokens).

    A weights function gets one for each parameter that is annotated ``Map``; the user states a
    variant's name or the content of its yaml. Maps of equal ``key`` compute the same thing.
    """

    key: str
    variant: Variant = field(repr=False, compare=False)

    def __call__(self, context: Context) -> Tensor:
        return self.variant.map(context)


def build(config: Mapping[str, Any], name: str | None = None) -> Variant:
    """Build a variant from the content of its yaml.

    Args:
        config: ``_target_``, the common keys (with defaults), and the function's own parameters.
        name: for people; by default the function's name.

    Raises:
        LabError: an unknown target, an unknown parameter (did you mean), or a value out of range.
    """
    config = {**COMMON, **plain(config)}
    name = config.pop("name", None) or name or str(config.get("_target_", "")).rpartition(".")[2]
    with about(f"attention '{name}'"):
        return _build(config, name)


def variant(function: Callable[..., Any], name: str | None = None, **config: Any) -> Variant:
    """Build a variant from a function of one's own, without a yaml.

    >>> def sharp(ctx, temperature=1.0):
    ...     return (ctx.scores() / temperature).softmax(-1)
    >>> variant(sharp, temperature=0.5).config["temperature"]
    0.5

    Args:
        function: a weights function, or a `sclip_lab.core.functions.block_edit`. Its code is part
            of the key, see `sclip_lab.core.identity`: other code is another variant.
        name: for tables; by default the function's name.
        **config: the function's parameters and the common keys; ``prior``, ``mix`` and ``repair``
            also take a function, or a partial of one.

    Raises:
        LabError: as `build`, or a function that uses something without a key.
    """
    name = name or getattr(function, "__name__", "own").replace("<lambda>", "lambda_")
    return build({**described(function), **config}, name)


def _build(config: dict[str, Any], name: str) -> Variant:
    if "_target_" not in config:
        raise LabError("has no _target_; name a weights function or a block edit")
    function = locate(config["_target_"])
    parameters = {k: v for k, v in config.items() if k not in COMMON and k != "_target_"}
    maps = _maps(function, parameters)
    parameters = {k: v for k, v in parameters.items() if k not in maps}
    bound = bind(function, parameters, FUNCTIONS, supplied=maps, also_known=COMMON)
    config = {**config, **bound.keywords, **{key: described(config[key]) for key in maps}}
    parts: dict[str, partial[Any] | None] = {}
    for key, kinds in PARTS.items():
        config[key] = described(config[key])
        try:
            parts[key] = bind_config(config[key], *kinds)
            config[key] = written_out(config[key], *kinds)
        except LabError as error:  # not `about`: it omits a key that the message has as a word
            raise LabError(f"{key}: {error}") from error
    functions = [bound, *(part for part in parts.values() if part is not None)]
    _check_common(config, function)
    contents = {key: base.content_of_map() for key, base in maps.items()}
    supplied: dict[str, Any] = {k: Map(digest(contents[k]), base) for k, base in maps.items()}
    if kind_of(function) is block_edit and "repair" in inspect.signature(function).parameters:
        supplied["repair"] = parts["repair"]
    identity = _content({**config, **contents})
    modules = {f.func.__module__ for f in functions}
    return Variant(
        name=name,
        config=config,
        key=digest(identity),
        edit_key=digest({k: v for k, v in identity.items() if k != "layers"}),
        modules=tuple(sorted(modules.union(*(base.modules for base in maps.values())))),
        uses=used(functions).union(*(base.uses for base in maps.values())),
        maps=contents,
        _function=partial(bound, **supplied),
        _parts=parts,
    )


def _check_common(config: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Refuse common keys that have a wrong value, or no meaning for a block edit."""
    check("layers", config["layers"], int | float | str | Sequence[int | float | str])
    for key in ("residual", "mlp", "class_token"):
        check(key, config[key], bool)
    check("stream", config["stream"], Literal["replace", "parallel"])
    if kind_of(function) is not block_edit:
        return
    without_meaning = {"residual", "mlp", "stream", "mix", "repair"}
    without_meaning -= set(inspect.signature(function).parameters)
    changed = [key for key in sorted(without_meaning) if config[key] != COMMON[key]]
    if changed:
        raise LabError(
            f"{', '.join(changed)} cannot be set: {function.__name__} replaces the whole block"
        )


def _maps(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Variant]:
    """Map each parameter that is annotated `Map` and names a variant to that variant."""
    maps = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if not re.search(r"\bMap\b", str(parameter.annotation)):
            continue
        value = parameters.get(key, parameter.default)
        missing = value in (inspect.Parameter.empty, "???")
        if not missing and (isinstance(value, str | Mapping) or callable(value)):
            maps[key] = _map(key, value)
    return maps


def _map(key: str, value: Any) -> Variant:
    content = described(value)
    if isinstance(value, str):
        if not _names:
            raise LabError(
                f"{key} {value!r}: names are known only after 'import sclip_lab.config.registry'"
            )
        with about(key):
            content = _names[0](value)
    base = build(content, value if isinstance(value, str) else None)
    parts = [name for name in ("repair", "entry", "hidden") if base.config[name]]
    if base.replaces_block or parts:
        why = f"changes more than its map ({', '.join(parts)})" if parts else "has no single map"
        raise LabError(f"{key} '{base.name}' {why}; name a variant with a weights function")
    return base


@cache
def _warn_that_prior_is_ignored(name: str) -> None:
    log.warning("attention '%s': its prior changes nothing; no softmax of scores is taken", name)


def _content(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with a file's digest in place of its path, under keys named ``*_file``."""
    content: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = _content(value)
        elif key.endswith("_file") and value and os.path.isfile(value):
            if (size := Path(value).stat().st_size) > LARGEST_FILE:
                raise LabError(f"{key} {value} has {size} bytes, more than {LARGEST_FILE}")
            value = {"sha256": hashlib.sha256(Path(value).read_bytes()).hexdigest()}
        content[key] = value
    return content
