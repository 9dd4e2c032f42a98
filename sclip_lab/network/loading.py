"""Load a frozen CLIP by name, from a checkpoint, or from weights or a model in memory."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from torch import Tensor, nn

from sclip_lab.core.errors import LabError, printable, unknown
from sclip_lab.core.values import LARGEST_SEED, check_arguments, within
from sclip_lab.network import pretrained_tags, tower
from sclip_lab.network.architecture import (
    check_architecture,
    infer_architecture,
    read_architecture,
)
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import (
    OPENAI_ENTRIES,
    folder_of,
    in_memory,
    read_checkpoint,
)
from sclip_lab.network.context import State
from sclip_lab.network.fit import (
    check_config,
    check_fit,
    fitting_names,
    load_weights,
    set_epsilon,
)
from sclip_lab.network.planned import planned_clip, planning
from sclip_lab.network.position_embedding import DEFAULT_RULE
from sclip_lab.network.precision import Precision, lower_precision
from sclip_lab.network.pretrained_tags import check_activation, computes_quick_gelu
from sclip_lab.network.tokenizer import Tokenizer

MOST_NUMBERS = 10**10  # weights of a network that a file describes
# The prompt sets that come with open_clip, as text with one {}.
TEMPLATE_SETS = {
    "openai_imagenet": tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "simple_imagenet": tuple(make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES),
}
UNREACHED = "Failed to download"  # open_clip's words


def architectures() -> list[str]:
    """List the names that open_clip knows."""
    return open_clip.list_models()


def load_backbone(
    name: str | None = None,
    pretrained: str | None = None,
    *,
    model: Any = None,
    tokenizer: Callable[..., Tensor] | None = None,
    preprocess: Any = None,
    state_dict: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    architecture: Mapping[str, Any] | str | Path | None = None,
    text_folder: str | Path | None = None,
    quick_gelu: bool | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    seed: int = 0,
    position_embedding: str = DEFAULT_RULE,
    padding: Literal["floor", "corner"] = "floor",
    layer_norm_eps: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Backbone:
    """Load a CLIP, frozen.

    Args:
        name: an open_clip architecture such as ``ViT-B-16-quickgelu``, or a model of a hub or of a
            local folder (``hf-hub:org/model``, ``local-dir:path``). Not needed with ``model`` or
            ``architecture``, nor with OpenAI's own files.
        pretrained: an open_clip tag (``openai``, downloaded by open_clip), a local file, or None
            for random weights drawn from ``seed``.
        model: a model in memory instead, open_clip's or timm's; it is copied, and its own forward
            must give what its weights say.
        tokenizer: of that model; open_clip's own tokenizer if None.
        preprocess: its image transform, whose channel statistics are taken; the model's if None.
        state_dict: weights, in open_clip's or OpenAI's layout (tensors or arrays).
        checkpoint: the same from a file or folder, see `sclip_lab.network.checkpoint`.
        weights: which weights of a checkpoint that holds several, such as ``ema``.
        architecture: open_clip's model config (``embed_dim``, ``vision_cfg``, ``text_cfg``,
            optionally ``quick_gelu``, ``custom_text``, ``init_logit_bias``), as mapping or JSON
            file.
        text_folder: local folder of the text tower's configuration and tokenizer, for networks
            whose text tower is one of transformers'; None fetches them from the hub.
        quick_gelu: activation x sigmoid(1.702 x). None: what the name or architecture says, and
            True for OpenAI's own files without either. Weights that are known to be trained with
            the other activation are refused unless this says which one is meant.
        precision: ``fp32``, ``bf16``, ``bf16_fast`` or ``fp16``, see `lower_precision`.
        device: ``auto`` (CUDA if there is one), or a torch device.
        seed: of random weights.
        position_embedding: how a grid of another size gets its position embeddings.
        padding: what happens to pixels beyond the last whole patch, ``floor`` or ``corner``.
        layer_norm_eps: replaces the image tower's epsilon.
        mean, std: channel statistics in 0 .. 255, RGB. None: what open_clip or the hub notes
            for these weights (SigLIP's are 127.5), CLIP's where nobody does.

    Raises:
        LabError: unknown name or tag (did you mean), an image tower that
            `sclip_lab.network.tower` does not know, weights of another architecture, weights
            that are not finite, an activation that the weights were not trained with, or a model
            in memory that was patched, hooked or adapted.
    """
    check_options(
        precision=precision, padding=padding, seed=seed, layer_norm_eps=layer_norm_eps, mean=mean,
        std=std,
    )  # fmt: skip
    others = (pretrained, checkpoint, state_dict, architecture, weights, text_folder)
    if model is not None and any(other is not None for other in others):
        raise LabError(
            "model= is a network with its weights; leave checkpoint and pretrained, weights and "
            "text_folder, state_dict and architecture"
        )
    if model is None and (tokenizer is not None or preprocess is not None):
        raise LabError("tokenizer= and preprocess= are of model=; give mean= and std= without it")
    if pretrained and checkpoint is None and os.path.exists(pretrained):
        checkpoint, pretrained = pretrained, None
    if checkpoint is not None and state_dict is not None:
        raise LabError("give either checkpoint or state_dict, not both")
    source = str(checkpoint) if checkpoint is not None else "state_dict"
    notes: Mapping[str, Any] = {}
    if checkpoint is not None:
        state_dict = read_checkpoint(Path(checkpoint), weights)
        notes = pretrained_tags.read_notes(folder_of(Path(checkpoint)))
    elif state_dict is not None:
        state_dict = in_memory(state_dict, weights)
    elif weights is not None:
        raise LabError(f"weights={weights} chooses among those of a checkpoint; there is none")
    has_weights = state_dict is not None
    tag = None if has_weights else pretrained
    device = check_device(device)
    # Weights do not show their activation. Whether anything but the name says it:
    states_activation = state_dict is None or architecture is not None or quick_gelu is not None
    find_statistics: Callable[[], pretrained_tags.Statistics]
    if model is not None:
        if quick_gelu is not None:
            raise LabError("model= has its own activation; leave quick_gelu")
        name, model, tokenize = _from_memory(name, model, tokenizer)
        where: str | None = "in memory"
        find_statistics = partial(_stated_statistics, name, model, preprocess)
    else:
        if architecture is not None and not isinstance(architecture, Mapping):
            architecture = read_architecture(Path(architecture))
        if architecture is not None and pretrained:
            raise LabError(
                f"{name or 'custom'}: pretrained={pretrained} is a tag of open_clip's "
                "architectures and not of this one; leave it, or give checkpoint=<file>"
            )
        is_openai = state_dict is not None and set(state_dict) >= OPENAI_ENTRIES
        if architecture is None and name is None:
            if state_dict is None:
                raise LabError("name an architecture, for example ViT-B-16-quickgelu")
            if not is_openai:
                fitting = fitting_names(state_dict)
                names = f" Its shapes fit {', '.join(fitting)}." if fitting else ""
                raise LabError(
                    f"{source}: name the architecture, as in backbone=ViT-B-16. Only OpenAI's own "
                    "files go without one: weights do not say how wide heads are, nor their "
                    f"activation.{names}"
                )
            architecture = infer_architecture(state_dict)
            quick_gelu, states_activation = quick_gelu in (None, True), True
        elif is_openai or (architecture is None and "model_cfg" in notes):
            trained = is_openai or bool(notes["model_cfg"].get("quick_gelu", False))
            computed = computes_quick_gelu(name, architecture)
            check_activation(name or "custom", source, trained, computed, quick_gelu)
            states_activation = True
        with seeded(seed):
            if architecture is not None:
                model, tokenize = _custom(
                    dict(architecture), quick_gelu, state_dict, source, text_folder
                )
                name = name or "custom"
            else:
                assert name is not None
                model, tokenize = _by_name(name, tag, quick_gelu, text_folder, has_weights)
        where = name.partition(":")[0] if ":" in name and not has_weights else None
        find_statistics = partial(
            pretrained_tags.statistics, model.visual, name, tag, has_weights, notes
        )
    stated = (mean, std) if mean and std else find_statistics()
    if hasattr(model, "text_decoder"):
        model.text_decoder = nn.Identity()  # CoCa's captions; no feature needs them
    is_random = pretrained is None and state_dict is None and where is None
    backbone = Backbone(
        name=name,
        model=model,
        tokenize=tokenize,
        position_embedding=position_embedding,
        padding=padding,
        mean=tuple(mean or stated[0]),
        std=tuple(std or stated[1]),
        description={
            "name": name,
            # Weights of a file or of the call take a tag's place.
            "pretrained": (pretrained or where) if state_dict is None else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "seed": seed if is_random else None,
        },
    )
    if quick_gelu and hasattr(getattr(model, "visual", model), "trunk"):
        raise LabError(f"backbone {name}: timm's tower has its own activation; leave quick_gelu")
    if state_dict is not None:
        if not load_weights(model, state_dict, source, name):
            backbone.tokenize = None
        if checkpoint is not None:
            states_activation |= check_config(folder_of(Path(checkpoint)), backbone)
        if not states_activation:
            pretrained_tags.warn_of_activation(name, source)
    if layer_norm_eps is not None:
        set_epsilon(model, layer_norm_eps)
    check_finite(model, source if state_dict is not None else f"{name} {pretrained or where or ''}")
    if where == "in memory":
        backbone.to(device).model.eval()
        _check_forward(backbone)
    return prepared(backbone, precision, device)


def prepared(backbone: Backbone, precision: Precision, device: str) -> Backbone:
    """Freeze a network, move it to a device and lower its precision; its description gets both."""
    backbone.to(device).model.eval().requires_grad_(False)
    lower_precision(backbone.tower, precision)
    where = {"precision": precision, "device": torch.device(device).type}
    backbone.description = {**backbone.description, **where}
    return backbone


def check_options(prefix: str = "", **options: Any) -> None:
    """Refuse wrong values of the options that `load_backbone` shares with other loaders; errors
    have ``prefix`` before the name."""
    check_arguments(load_backbone, options, prefix)
    within(f"{prefix}seed", options["seed"], 0, LARGEST_SEED)
    if (epsilon := options.get("layer_norm_eps")) is not None:
        within(f"{prefix}layer_norm_eps", epsilon, 0, 1, above=True)
    for name in ("mean", "std"):
        for value in options[name] or ():
            within(f"{prefix}{name}", value, 0, 1e3, above=name == "std")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random weights from a seed, and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _from_memory(
    name: str | None, model: Any, tokenizer: Callable[..., Tensor] | None
) -> tuple[str, Any, Tokenizer | None]:
    """Return the name of a model in memory, a copy without what training wraps around it, and its
    tokenizer (None if it has no text tower)."""
    while (inner := getattr(model, "_orig_mod", getattr(model, "module", None))) is not None:
        model = inner
    name = name or type(model).__name__
    content: Mapping[str, Any] = getattr(model, "state_dict", dict)()
    if packed := [key for key, weight in content.items() if not isinstance(weight, Tensor)]:
        raise LabError(f"model {name}: {packed[0]} is no tensor; give unquantised weights")
    tower.find(name, model)
    try:
        model = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:  # pruned, or with a lock or file
        raise LabError(
            f"model {name} cannot be copied; make pruned weights permanent ({error})"
        ) from error
    if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in content.values()):
        model.float()  # `precision` says in which numbers it computes
    if tokenizer is not None and not callable(tokenizer):
        raise LabError(
            f"tokenizer= is a {type(tokenizer).__name__}; give a function of texts, such as "
            "open_clip.get_tokenizer(name)"
        )
    if getattr(model, "visual", None) is None:
        return name, model, None
    text, is_own = getattr(model, "text", model), tokenizer is not None
    if tokenizer is None and getattr(text, "vocab_size", None) == 49408:
        tokenizer = open_clip.SimpleTokenizer(context_length=text.context_length)

    def needed() -> Callable[..., Tensor]:
        if tokenizer is None:
            raise LabError(f"give tokenizer=, the function that makes tokens for {name}")
        return tokenizer

    return name, model, Tokenizer(name, needed, is_own)


def _stated_statistics(name: str, model: Any, preprocess: Any) -> pretrained_tags.Statistics:
    """Return the channel statistics that a model in memory or its image transform states.

    Raises:
        LabError: neither does.
    """
    steps = getattr(preprocess, "transforms", ())
    stated: list[Mapping[str, Any]] = [vars(step) for step in steps if hasattr(step, "std")]
    if isinstance(preprocess, Mapping):
        stated = [preprocess]
    if preprocess is not None and not stated:
        raise LabError(
            f"model {name}: preprocess= has no step with mean and std; give mean= and std= in "
            "0 .. 255"
        )
    visual = getattr(model, "visual", None)
    stated += [getattr(model, "pretrained_cfg", {}), getattr(visual, "preprocess_cfg", {})]
    stated += [{key: getattr(visual, f"image_{key}", None) for key in ("mean", "std")}]
    for note in stated:
        if note.get("mean") is not None and note.get("std") is not None:
            return pretrained_tags.of_note(note)
    raise LabError(
        f"model {name} does not say its channel statistics; give preprocess=, or mean= and std= "
        "in 0 .. 255"
    )


def _check_forward(network: Backbone) -> None:
    """Compare a model in memory with its own forward on noise.

    Blocks are computed from their weights, so that a patched forward, a hook or an adapter would
    be left out without a sign.

    Raises:
        LabError: they differ, or the weights are not those of a plain network.
    """
    kind, square = next(network.model.parameters()).dtype, (network.image_size,) * 2
    size = getattr(getattr(network.model, "visual", None), "image_size", square)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    images = images.to(network.device, kind)
    advice = (
        f"model {network.name} computes something else than its weights say; merge adapters, and "
        "undo what was patched or hooked"
    )
    grid = network.grid(*size)
    try:
        with torch.inference_mode():
            tokens = network.embed(images)
            for block in network.blocks_on(grid):
                tokens = block.plain(tokens)
            computed = network.project(State(tokens), grid)[1]
    # An adapter may lack anything that the code of a plain network looks for.
    except Exception as error:
        raise LabError(f"{advice} ({type(error).__name__}: {error})") from error
    model, outputs = network.model, dict[str, Any]()
    # Hooks on the last block may change patches alone.
    last = network.blocks[-1].module
    hook = last.register_forward_hook(lambda *call: outputs.update({"tokens": call[2]}))
    try:
        with torch.inference_mode():
            if hasattr(model, "encode_image"):
                whole = model.encode_image(images)
            else:
                whole = model.forward_head(model.forward_features(images), pre_logits=True)
            outputs["image embeddings"] = nn.functional.normalize(whole, dim=-1)
    except Exception:  # it may take no square images
        return
    finally:
        hook.remove()
    ours = {"tokens": tokens, "image embeddings": nn.functional.normalize(computed, dim=-1)}
    for what, own in outputs.items():
        if isinstance(own, Tensor) and ours[what].shape == own.shape:
            difference = float((ours[what] - own).norm())
            if not difference <= 1e-3 * float(own.norm()):
                raise LabError(f"{advice} ({what} differ by {difference:.3g})")


def _custom(
    architecture: dict[str, Any],
    quick_gelu: bool | None,
    state_dict: Mapping[str, Any] | None,
    source: str,
    text_folder: str | Path | None,
) -> tuple[Any, Tokenizer]:
    text = _with_folder(architecture, text_folder, "architecture")
    check_architecture(architecture, "architecture", local=text_folder is not None)
    if quick_gelu is None:
        quick_gelu = bool(architecture.get("quick_gelu", False))
    of_transformers = "hf_model_name" in text
    custom_text = architecture.get("custom_text") or of_transformers
    build = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP

    def built() -> Any:
        return build(
            architecture["embed_dim"],
            dict(architecture["vision_cfg"]),
            dict(text),
            quick_gelu,
            init_logit_bias=architecture.get("init_logit_bias"),
        )

    try:
        with planning():  # needs no memory, whatever sizes a stranger has written
            planned = built()
        numbers = sum(weight.numel() for weight in planned.state_dict().values())
        if numbers > MOST_NUMBERS:
            raise LabError(f"architecture: {numbers} weights; at most {MOST_NUMBERS} are made")
        if state_dict is not None:
            check_fit(planned, state_dict, source, "custom")
        model = built()
    except LabError:
        raise
    # Values that cannot be meant break a network's code in many ways.
    except Exception as error:
        raise LabError(f"architecture: {type(error).__name__}: {error}") from error
    return model, _tokenizer("custom", text)


def _tokenizer(name: str, text: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that a text tower's description asks for."""
    length, options = text.get("context_length", 77), _no_remote_code(text, name)
    if "hf_tokenizer_name" not in text:
        return Tokenizer(name, lambda: open_clip.SimpleTokenizer(context_length=length))
    source, mode = text["hf_tokenizer_name"], text.get("tokenizer_mode")
    make = partial(open_clip.tokenizer.HFTokenizer, source, length, tokenizer_mode=mode, **options)
    return Tokenizer(source, make, is_own=os.path.isdir(source))


def _with_folder(
    architecture: dict[str, Any], folder: str | Path | None, name: str
) -> dict[str, Any]:
    """Return the text tower's description, with files from a local folder if there is one."""
    text = architecture.get("text_cfg")
    text = dict(text) if isinstance(text, Mapping) else {}
    if folder is None:
        return text
    if not {"hf_model_name", "hf_tokenizer_name"} & set(text):
        raise LabError(f"{name}: its texts need nothing of transformers; leave text_folder")
    path = Path(folder) / "config.json"
    if not path.is_file() and "hf_model_name" in text:
        raise LabError(f"text_folder {folder}: there is no config.json of {text['hf_model_name']}")
    if path.is_file() and "auto_map" in read_architecture(path):
        raise LabError(f"text_folder {folder}: its config.json runs code of a stranger (auto_map)")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if key in text:
            text[key] = str(folder)
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    architecture["text_cfg"] = text
    return text


def _no_remote_code(text: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the tokenizer's options. A tokenizer that comes with code of its own is refused."""
    options = dict(text.get("tokenizer_kwargs") or {})
    if options.get("trust_remote_code"):
        raise LabError(f"{source}: its tokenizer runs code of a stranger (trust_remote_code)")
    return options


def _by_name(
    name: str,
    pretrained: str | None,
    quick_gelu: bool | None,
    text_folder: str | Path | None,
    has_weights: bool,
) -> tuple[Any, Tokenizer]:
    # open_clip fetches any "hf-hub:org/model" itself; other names are its own architectures.
    elsewhere = ":" in name
    if not elsewhere and name not in open_clip.list_models():
        message = unknown("backbone", name, open_clip.list_models())
        raise LabError(f"{message}; one that open_clip does not know needs an architecture")
    if pretrained and not elsewhere:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in tags:
            message = unknown(f"pretrained tag of {name}", pretrained, tags)
            raise LabError(f"{message}; pretrained=null is random weights")
        trained = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
        computed = computes_quick_gelu(name)
        check_activation(name, f"the tag {pretrained}", trained, computed, quick_gelu)
    options: dict[str, Any] = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    try:
        with quiet():
            config = open_clip.get_model_config(name)
            if elsewhere and config:
                check_architecture(config, name)
                _no_remote_code(config["text_cfg"], name)
            if not elsewhere:
                # Without memory: what is not supported is said before weights are fetched.
                tower.find(name, planned_clip(config, quick_gelu))
            if text_folder is not None and config:
                config["text_cfg"] = _with_folder(config, text_folder, name)
                options["text_cfg"] = config["text_cfg"]
            model = open_clip.create_model(
                name,
                pretrained=pretrained,
                # A hub's model without its weights would be a random network.
                load_weights=not has_weights,
                require_pretrained=elsewhere and not has_weights,
                pretrained_text=False,
                **options,
            )
    except LabError:
        raise
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _cannot_build(name, pretrained, error) from error
    if text_folder is not None and config and "hf_tokenizer_name" in config["text_cfg"]:
        return model, _tokenizer(name, config["text_cfg"])

    def tokenizer() -> Any:
        with quiet():
            return open_clip.get_tokenizer(name)

    return model, Tokenizer(name, tokenizer)


def _cannot_build(name: str, pretrained: str | None, error: Exception) -> LabError:
    reason = str(error)
    if "pip install transformers" in reason:
        return LabError(f"{name}: its text tower needs the package transformers; install it")
    if isinstance(error, OSError) and name in open_clip.list_models():
        text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
        if "hf_model_name" in text:
            return LabError(
                f"{name}: the configuration of its text tower {text['hf_model_name']} cannot be "
                "fetched from here. Give text_folder=<local folder with its config.json and "
                "tokenizer>, or run where the network reaches the hub"
            )
    if isinstance(error, OSError) or UNREACHED in reason or "Required pretrained" in reason:
        return LabError(
            f"{name}: its weights cannot be fetched from here. Run where the "
            "network reaches them, or give checkpoint=<local file>; pretrained=null is random "
            "weights, for timing and layout"
        )
    return LabError(f"{name} {pretrained}: open_clip cannot build it: {error}")


def _not_repeated(record: logging.LogRecord) -> bool:
    """Tell whether a log record is shown, because our own error does not repeat what it says."""
    text = record.getMessage()
    ours = ("No pretrained weights", "Could not find/download default weights")
    return UNREACHED not in text and not text.startswith(ours) and "initialized" not in text


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress notes of open_clip and timm. Warnings are let through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    # A host that cannot be reached is reported once, by our error, not once per attempt.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    logging.root.addFilter(_not_repeated)
    try:
        with warnings.catch_warnings():
            # `check_activation` has decided about the activation.
            warnings.filterwarnings("ignore", "QuickGELU mismatch")
            yield
    finally:
        hub.setLevel(level)
        logging.root.removeFilter(_not_repeated)
        logging.disable(before)


def check_device(device: str) -> str:
    """Return the device that ``device`` means, after checking that it can be used."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()  # the device "meta" computes nothing
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise LabError(
            f"device {printable(device)} cannot be used here ({why}); device=cpu can"
        ) from None
    return device


def check_finite(model: Any, source: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        LabError: the message names the first such weight.
    """
    for name, tensor in model.state_dict().items():
        if name.endswith(("put_min", "put_max")):  # Gemma's limits, infinite where there are none
            continue
        if tensor.is_meta:
            raise LabError(f"{source}: weight {name} has no numbers (device meta)")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LabError(f"{source}: weight {name} contains NaN or infinity")
