"""A frozen CLIP by name, from a checkpoint or from weights in memory.

The only module that imports open_clip.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from sclip_lab.core.errors import LabError, printable, unknown
from sclip_lab.core.values import LARGEST_SEED, check, within
from sclip_lab.network import tower
from sclip_lab.network.architecture import (
    check_architecture,
    infer_architecture,
    read_architecture,
)
from sclip_lab.network.backbone import MEAN, STD, Backbone
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.position_embedding import DEFAULT_RULE
from sclip_lab.network.precision import PRECISIONS, lower_precision

log = logging.getLogger(__name__)
# Only OpenAI's archives hold these beside the weights. All of them were trained with QuickGELU.
OPENAI_ENTRIES = {"input_resolution", "context_length", "vocab_size"}
MOST_NUMBERS = 10**10  # weights of a network that a file describes
# The prompt sets that come with open_clip, as text with one {}.
TEMPLATE_SETS = {
    "openai_imagenet": tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "simple_imagenet": tuple(make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES),
}


def architectures() -> list[str]:
    """Names that open_clip knows."""
    return open_clip.list_models()


def load_backbone(
    name: str | None = None,
    pretrained: str | None = None,
    *,
    state_dict: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    architecture: Mapping[str, Any] | str | Path | None = None,
    quick_gelu: bool | None = None,
    precision: str = "fp32",
    device: str = "auto",
    seed: int = 0,
    position_embedding: str = DEFAULT_RULE,
    padding: str = "floor",
    layer_norm_eps: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A frozen CLIP.

    Args:
        name: an open_clip architecture such as ``ViT-B-16-quickgelu``. Not needed with
            ``architecture``, nor with a state dict in OpenAI's layout, whose shapes tell.
        pretrained: an open_clip tag (``openai``, downloaded by open_clip), a local file, or None
            for random weights drawn from ``seed``.
        state_dict: weights, in open_clip's or OpenAI's layout (tensors or arrays).
        checkpoint: the same from a file: ``.safetensors``, or ``.pt`` read with weights_only.
        architecture: open_clip's model config (``embed_dim``, ``vision_cfg``, ``text_cfg``,
            optionally ``quick_gelu``, ``custom_text``, ``init_logit_bias``), as mapping or JSON
            file.
        quick_gelu: activation x sigmoid(1.702 x). None: what the name or architecture says, and
            True for weights in OpenAI's layout without either. Weights that are known to be
            trained with the other activation are refused unless this says which one is meant.
        precision: ``fp32``, ``bf16`` or ``fp16``, see `lower_precision`.
        device: ``auto`` (CUDA where there is one), or a torch device.
        seed: of random weights.
        position_embedding: how a grid of another size gets its position embeddings.
        padding: what happens to pixels beyond the last whole patch, ``floor`` or ``corner``.
        layer_norm_eps: replaces the image tower's epsilon.
        mean, std: channel statistics in 0 .. 255, RGB. None: what open_clip or the hub notes
            for these weights (SigLIP's are 127.5), CLIP's where nobody does.

    Raises:
        LabError: unknown name or tag (did you mean), an image tower that
            `sclip_lab.network.tower` does not know, weights of another architecture, weights
            that are not finite, or an activation that the weights were not trained with.
    """
    _check_numbers(seed, layer_norm_eps, mean, std)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if padding not in ("floor", "corner"):
        raise unknown("padding", padding, ("floor", "corner"))
    if pretrained and checkpoint is None and os.path.isfile(pretrained):
        checkpoint, pretrained = pretrained, None
    source = str(checkpoint) if checkpoint is not None else "state_dict"
    if checkpoint is not None:
        if state_dict is not None:
            raise LabError("give either checkpoint or state_dict, not both")
        state_dict = read_checkpoint(Path(checkpoint))
    if state_dict is not None:
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if architecture is not None and not isinstance(architecture, Mapping):
        architecture = read_architecture(Path(architecture))
    if architecture is not None and pretrained:
        raise LabError(
            f"{name or 'custom'}: pretrained={pretrained} is a tag of open_clip's "
            "architectures and not of this one; leave it, or give checkpoint=<file>"
        )

    if architecture is None and name is None:
        if state_dict is None:
            raise LabError("name an architecture, for example ViT-B-16-quickgelu")
        architecture = infer_architecture(state_dict)
        quick_gelu = True if quick_gelu is None else quick_gelu
    if state_dict is not None and set(state_dict) >= OPENAI_ENTRIES:
        _check_activation(
            name or "custom", source, True, _activation(name, architecture), quick_gelu
        )
    device = check_device(device)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        if architecture is not None:
            model, tokenize = _custom(dict(architecture), quick_gelu, state_dict, source)
            name = name or "custom"
        else:
            assert name is not None
            model, tokenize = _named(
                name, None if state_dict is not None else pretrained, quick_gelu
            )
    finally:
        torch.random.set_rng_state(torch_state)
    found = tower.find(name, model)
    if quick_gelu and not found.prefix:
        raise LabError(f"backbone {name}: timm's tower has its own activation; leave quick_gelu")
    if mean is None or std is None:
        tag = None if state_dict is not None else pretrained
        known_mean, known_std = _statistics(model.visual, name, tag, state_dict is not None)
    if state_dict is not None:
        _load_weights(model, state_dict, source, name)
    if layer_norm_eps is not None:
        for module in model.visual.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = layer_norm_eps
    check_finite(model, source if state_dict is not None else f"{name} {pretrained}")
    model = model.to(device).eval().requires_grad_(False)
    lower_precision(model, precision)
    return Backbone(
        name=name,
        model=model,
        tokenize=tokenize,
        position_embedding=position_embedding,
        padding=padding,
        mean=known_mean if mean is None else tuple(mean),
        std=known_std if std is None else tuple(std),
        description={
            "name": name,
            # Weights of a file or of the call take a tag's place.
            "pretrained": pretrained if state_dict is None else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "seed": seed if pretrained is None and state_dict is None else None,
            "precision": precision,
            "device": torch.device(device).type,
        },
    )


def _check_numbers(
    seed: int,
    layer_norm_eps: float | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    check("seed", seed, int)
    within("seed", seed, 0, LARGEST_SEED)
    check("layer_norm_eps", layer_norm_eps, float | None)
    if layer_norm_eps is not None:
        within("layer_norm_eps", layer_norm_eps, 0, 1, above=True)
    for name, values in (("mean", mean), ("std", std)):
        check(name, values, tuple[float, float, float] | None)
        for value in values or ():
            within(name, value, 0, 1e3, above=name == "std")


def _custom(
    architecture: dict[str, Any],
    quick_gelu: bool | None,
    state_dict: Mapping[str, Any] | None,
    source: str,
) -> tuple[Any, Callable]:
    check_architecture(architecture, "architecture")
    if quick_gelu is None:
        quick_gelu = bool(architecture.get("quick_gelu", False))
    text = dict(architecture["text_cfg"])
    build = open_clip.CustomTextCLIP if architecture.get("custom_text") else open_clip.CLIP

    def built() -> Any:
        return build(
            architecture["embed_dim"],
            dict(architecture["vision_cfg"]),
            text,
            quick_gelu,
            init_logit_bias=architecture.get("init_logit_bias"),
        )

    try:
        with torch.device("meta"):  # without memory, whatever sizes a stranger has written
            planned = built()
        numbers = sum(weight.numel() for weight in planned.state_dict().values())
        if numbers > MOST_NUMBERS:
            raise LabError(f"architecture: {numbers} weights; at most {MOST_NUMBERS} are made")
        if state_dict is not None:
            _check_fit(planned, state_dict, source, "custom")
        model = built()
    except LabError:
        raise
    # Values that cannot be meant break a network's code in many ways.
    except Exception as error:
        raise LabError(f"architecture: {type(error).__name__}: {error}") from error
    length = text.get("context_length", 77)
    if "hf_tokenizer_name" not in text:
        return model, open_clip.SimpleTokenizer(context_length=length)
    hub, options = text["hf_tokenizer_name"], _no_remote_code(text, "architecture")
    return model, _Tokenizer(hub, lambda: open_clip.tokenizer.HFTokenizer(hub, length, **options))


def _no_remote_code(text: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The tokenizer's options. One that comes with code of its own is refused."""
    options = dict(text.get("tokenizer_kwargs") or {})
    if options.get("trust_remote_code"):
        raise LabError(f"{source}: its tokenizer runs code of a stranger (trust_remote_code)")
    return options


class _Tokenizer:
    """open_clip's, made when the first text asks: some come from a hub, and images need none."""

    def __init__(self, name: str, make: Callable[[], Callable]) -> None:
        self.name = name
        self._make = make

    @cached_property
    def _made(self) -> Callable:
        try:
            with _quiet():
                return self._make()
        # A hub's client fails in many ways; whichever it is, there is no tokenizer.
        except Exception as error:
            raise LabError(
                f"the tokenizer of {self.name} cannot be loaded ({error}); it comes from a hub "
                "and needs the package transformers. Images go without it"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self._made(texts)


UNREACHED = "Failed to download"  # how open_clip says it


def _named(name: str, pretrained: str | None, quick_gelu: bool | None) -> tuple[Any, Callable]:
    # open_clip fetches any "hf-hub:org/model" itself; other names are its own architectures.
    if ":" not in name and name not in open_clip.list_models():
        told = unknown("backbone", name, open_clip.list_models())
        raise LabError(f"{told}; one that open_clip does not know needs an architecture")
    if pretrained and ":" not in name:
        known = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in known:
            message = unknown(f"pretrained tag of {name}", pretrained, known)
            raise LabError(f"{message}; pretrained=null is random weights")
        trained = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
        _check_activation(
            name, f"the tag {pretrained}", trained, _activation(name, None), quick_gelu
        )
    options = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    try:
        with _quiet():
            if ":" not in name:
                # Without memory for weights: what is not read is known before it is fetched.
                with torch.device("meta"):
                    tower.find(name, open_clip.create_model(name, device="meta", **options))
            else:
                if config := open_clip.get_model_config(name):
                    check_architecture(config, name)
                    _no_remote_code(config["text_cfg"], name)
            model = open_clip.create_model(name, pretrained=pretrained, **options)
            return model, _Tokenizer(name, lambda: open_clip.get_tokenizer(name))
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) or UNREACHED in str(error):
            raise LabError(
                f"{name} {pretrained}: the weights cannot be fetched from here. Run where the "
                "network reaches them, or give checkpoint=<local file>; pretrained=null is random "
                "weights, for timing and layout"
            ) from error
        raise LabError(f"{name} {pretrained}: open_clip cannot build it: {error}") from error


def _told_by_us(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return UNREACHED not in text and not text.startswith("No pretrained weights")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's progress notes, which go to the root logger; warnings are let through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    # A host that cannot be reached is told once, by us, not once per attempt.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    logging.root.addFilter(_told_by_us)
    try:
        with warnings.catch_warnings():
            # Of the tag's activation; `_check_activation` has decided.
            warnings.filterwarnings("ignore", "QuickGELU mismatch")
            yield
    finally:
        hub.setLevel(level)
        logging.root.removeFilter(_told_by_us)
        logging.disable(before)


def _load_weights(model: Any, state_dict: Mapping[str, Any], source: str, name: str) -> None:
    given = _check_fit(model, state_dict, source, name)
    model.load_state_dict({key: value.float() for key, value in given.items()})


def _check_fit(
    model: Any, state_dict: Mapping[str, Any], source: str, name: str
) -> dict[str, Tensor]:
    """The weights without what is none.

    Raises:
        LabError: they are not those of the model by name, shape and type.
    """
    given = {
        key: _as_tensor(key, value, source)
        for key, value in state_dict.items()
        if key not in OPENAI_ENTRIES
    }
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(given))
    extra = sorted(set(given) - set(wanted))
    shapes = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    problems = (
        ([f"{len(missing)} weights missing, first {missing[0]}"] if missing else [])
        + ([f"{len(extra)} unexpected, first {extra[0]}"] if extra else [])
        + ([f"{len(shapes)} of another shape, first {shapes[0]}"] if shapes else [])
    )
    if problems:
        raise LabError(f"{source} does not fit architecture {name}: {'; '.join(problems)}")
    return given


def _as_tensor(key: str, value: Any, source: str) -> Tensor:
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise LabError(f"{source}: weight {key!a} is no array of numbers ({error})") from error
    if found.is_complex() or found.is_quantized or found.layout != torch.strided:
        raise LabError(f"{source}: weight {key!a} of type {found.dtype} is no plain array of reals")
    return found


def _activation(name: str | None, architecture: Mapping[str, Any] | None) -> bool:
    """Whether an architecture computes with QuickGELU, by its description or its name."""
    if architecture is None and name is not None and ":" not in name:
        architecture = open_clip.get_model_config(name)
    # Without a description the file alone says it.
    return True if architecture is None else bool(architecture.get("quick_gelu", False))


def _check_activation(
    name: str, weights: str, trained: bool, computed: bool, requested: bool | None
) -> None:
    """Refuse weights that were trained with another activation than the network computes.

    Args:
        name: of the network. weights: what they are called, in messages.
        trained, computed: whether with QuickGELU.
        requested: the user's own choice, which is obeyed.

    Raises:
        LabError: naming both activations, the name that fits and the key that decides.
    """
    words = {True: "QuickGELU", False: "GELU"}
    if requested is not None:
        if requested != trained:
            log.warning(
                "backbone %s: %s was trained with %s; quick_gelu=%s replaces it",
                *(name, weights, words[trained], str(requested).lower()),
            )
        return
    if trained == computed:
        return
    fitting = name.removesuffix("-quickgelu") + ("-quickgelu" if trained else "")
    use = f"use backbone={fitting}, or " if fitting in open_clip.list_models() else ""
    raise LabError(
        f"backbone {name} computes {words[computed]}, but {weights} was trained with "
        f"{words[trained]}: {use}decide by backbone.quick_gelu={str(trained).lower()}"
    )


def _statistics(
    visual: Any, name: str, tag: str | None, from_file: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in 0 .. 255.

    Those of the tag or of the hub's configuration; for other weights those on which all tags of
    the name agree, then a timm tower's own, then CLIP's.
    """
    if tag is not None:
        notes = [open_clip.get_pretrained_cfg(name, tag)]
    elif ":" in name:
        notes = [open_clip.get_model_preprocess_cfg(SimpleNamespace(visual=visual))]
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        notes = [open_clip.get_pretrained_cfg(name, each) for each in tags]
    if not notes and hasattr(visual, "trunk"):
        notes = [visual.trunk.pretrained_cfg]
    choices = {(_in_bytes(note["mean"], MEAN), _in_bytes(note["std"], STD)) for note in notes}
    if len(choices) == 1:
        return choices.pop()
    if choices and from_file:
        log.warning(
            "backbone %s: its published weights have several channel statistics and a file does "
            "not say which; CLIP's are used. backbone.mean and backbone.std decide; means: %s",
            name,
            " | ".join(str([round(value, 1) for value in means]) for means, _ in sorted(choices)),
        )
    return MEAN, STD


def _in_bytes(noted: Sequence[float], of_clip: tuple[float, ...]) -> tuple[float, ...]:
    """Statistics of 0 .. 1 in 0 .. 255; CLIP's as the field's evaluations round them."""
    scaled = tuple(255 * float(value) for value in noted)
    same = all(abs(a - b) < 1e-3 for a, b in zip(scaled, of_clip, strict=True))
    return of_clip if same else scaled


def check_device(device: str) -> str:
    """The device that is meant, before anything is put there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise LabError(
            f"device {printable(device)} cannot be used here ({why}); device=cpu can"
        ) from None
    return device


def check_finite(model: Any, source: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LabError(f"{source}: weight {name} contains NaN or infinity")
