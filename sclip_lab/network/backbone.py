"""CLIP itself, borrowed from open_clip and read by the names of its weights.

The only module that imports open_clip.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.errors import LabError, unknown
from sclip_lab.network import tower
from sclip_lab.network.context import State
from sclip_lab.network.linear import QUICK_GELU, is_quick_gelu
from sclip_lab.network.position_embedding import DEFAULT_RULE

log = logging.getLogger(__name__)

# CLIP's channel statistics in 0 .. 255 as the field's evaluations write them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)
# The prompt sets that come with open_clip, as text with one {}.
TEMPLATE_SETS = {
    "openai_imagenet": tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "simple_imagenet": tuple(make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class Backbone:
    """A frozen CLIP with a ViT: open_clip's with a class token, or SigLIP's without.

    Attributes:
        name: for tables.
        model: the open_clip model, in evaluation mode.
        position_embedding: default rule of `sclip_lab.network.position_embedding`.
        padding: ``floor`` drops pixels beyond the last whole patch, ``corner`` pads with zeros
            at the bottom and right (original MaskCLIP).
        description: what identifies it in a spec besides its weights.
    """

    name: str
    model: Any
    tokenize: Callable[[Sequence[str]], Tensor]
    position_embedding: str = DEFAULT_RULE
    padding: str = "floor"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tower = tower.find(self.name, self.model)
        self.blocks = self.tower.blocks

    @property
    def has_class_token(self) -> bool:
        """Whether token 0 of each image is a class token, or all tokens are patches."""
        return self.tower.prefix == 1

    @property
    def device(self) -> torch.device:
        return self.tower.convolution.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products of the image tower's last block."""
        return self.blocks[-1].dtype

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def patch_size(self) -> int:
        return self.tower.patch_size

    @property
    def image_size(self) -> int:
        """Side of the square images it was trained on, in pixels."""
        return self.tower.image_size

    @property
    def embed_dim(self) -> int:
        return self.tower.embed_dim

    @cached_property
    def digest(self) -> str:
        """sha256 of every weight (names, shapes, values as stored in memory) and the settings
        that change what the weights compute."""
        total = hashlib.sha256(
            json.dumps(
                {
                    "mean": self.mean,
                    "std": self.std,
                    "padding": self.padding,
                    "position_embedding": self.position_embedding,
                    **self.tower.settings,
                    # Quick or exact GELU, all that differs between CLIPs, is in the settings.
                    **({} if self.has_class_token else {"text": _text_settings(self.model)}),
                }
            ).encode()
        )
        return _add_weights(total, self.model.state_dict()).hexdigest()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches along height and width of an image of that many pixels.

        Raises:
            LabError: smaller than one patch.
        """
        patch = self.patch_size
        up = patch - 1 if self.padding == "corner" else 0
        grid = (height + up) // patch, (width + up) // patch
        if min(grid) < 1:
            raise LabError(f"image of {height} x {width} pixels is smaller than a {patch} px patch")
        return grid

    def normalise(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) RGB in 0 .. 255 -> the network's input, float32."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() - mean) / std

    @torch.inference_mode()
    def embed(self, images: Tensor, position_embedding: str | None = None) -> Tensor:
        """Tokens that enter the first block.

        Args:
            images: (batch, 3, height, width), normalised.
            position_embedding: rule of `sclip_lab.network.position_embedding`; None: the
                backbone's.

        Returns:
            (batch, tokens, width), in the precision of the norms: the class token, if there is
            one, and grid_h * grid_w patches.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise LabError(
                f"images of shape {tuple(images.shape)}: (batch, 3, height, width) wanted"
            )
        height, width = images.shape[-2:]
        grid = self.grid(height, width)
        if self.padding == "corner":
            patch = self.patch_size
            images = F.pad(images, (0, grid[1] * patch - width, 0, grid[0] * patch - height))
        patches = self.tower.convolution(
            images.to(self.device, self.tower.convolution.weight.dtype)
        )
        rule = position_embedding or self.position_embedding
        return self.tower.embed(patches.flatten(2).transpose(1, 2), grid, rule)

    def head(self, tokens: Tensor) -> Tensor:
        """What follows the last block, for each token alone: (..., width) -> (..., embed_dim).

        LN_post and the final projection; without a class token the pooling of one patch, see
        `sclip_lab.network.tower.TimmTower`. Lets gradients by.
        """
        return self.tower.head(tokens)

    @torch.inference_mode()
    def project(self, state: State, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`head` of what flows behind the last block.

        Returns:
            patch embeddings (batch, grid_h, grid_w, embed_dim) and class embeddings
            (batch, embed_dim), neither normalised. Beside a dense stream the class embedding is
            the trained stream's, the one that was made to match texts. Without a class token it
            is the pooled image embedding.
        """
        patches, whole = self.tower.embeddings(state)
        return patches.unflatten(1, grid), whole

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Text embeddings, not normalised: (texts, embed_dim) float32.

        With a causal text tower, positions behind the end of text change nothing, so batches are
        sorted by length and cut there.
        """
        tokens = self.tokenize(list(texts))
        ends = tokens.argmax(dim=-1)
        order = torch.argsort(ends, stable=True)
        out = torch.empty(len(tokens), self.embed_dim)
        for chosen in order.split(batch):
            out[chosen] = self._encode_tokens(tokens[chosen], int(ends[chosen].max()) + 1)
        return out

    def _encode_tokens(self, tokens: Tensor, length: int) -> Tensor:
        model = self.model
        mask = getattr(model, "attn_mask", None)
        if mask is None or model.text_pool_type != "argmax":
            return model.encode_text(tokens.to(self.device)).float().cpu()
        tokens = tokens[:, :length].to(self.device)
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
        projection = model.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return x.float().cpu()

    @cached_property
    def text_digest(self) -> str:
        """sha256 of the weights of the text tower alone, and of its settings."""
        weights = self.model.state_dict().items()
        text = {name: tensor for name, tensor in weights if not name.startswith("visual.")}
        settings = json.dumps(_text_settings(self.model)).encode()
        return _add_weights(hashlib.sha256(settings), text).hexdigest()


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
            True for weights in OpenAI's layout without either.
        precision: ``fp32``, ``bf16`` or ``fp16``, see `lower_precision`.
        device: ``auto`` (CUDA where there is one), or a torch device.
        seed: of random weights.
        position_embedding: how a grid of another size gets its position embeddings.
        padding: what happens to pixels beyond the last whole patch, ``floor`` or ``corner``.
        layer_norm_eps: replaces the image tower's epsilon.
        mean, std: channel statistics in 0 .. 255, RGB. None: CLIP's, or a timm tower's own
            (SigLIP's are 127.5).

    Raises:
        LabError: unknown name or tag (did you mean), an image tower that
            `sclip_lab.network.tower` does not know, weights of another architecture, or weights
            that are not finite.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if padding not in ("floor", "corner"):
        raise unknown("padding", padding, ("floor", "corner"))
    if pretrained and checkpoint is None and Path(pretrained).is_file():
        checkpoint, pretrained = pretrained, None
    source = str(checkpoint) if checkpoint is not None else "state_dict"
    if checkpoint is not None:
        if state_dict is not None:
            raise LabError("give either checkpoint or state_dict, not both")
        state_dict = _read_checkpoint(Path(checkpoint))
    if state_dict is not None:
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if architecture is not None and not isinstance(architecture, Mapping):
        architecture = _read_architecture(Path(architecture))

    if architecture is None and name is None:
        if state_dict is None:
            raise LabError("name an architecture, for example ViT-B-16-quickgelu")
        architecture = infer_architecture(state_dict)
        quick_gelu = True if quick_gelu is None else quick_gelu
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        if architecture is not None:
            model, tokenize = _custom(dict(architecture), quick_gelu)
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
    # open_clip knows the statistics of weights that it fetched itself.
    fetched = state_dict is None and (pretrained is not None or ":" in name)
    own_mean, own_std = _statistics(model.visual, fetched)
    if state_dict is not None:
        _load_weights(model, state_dict, source, name)
    if layer_norm_eps is not None:
        for module in model.visual.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = layer_norm_eps
    _check_finite(model, source if state_dict is not None else f"{name} {pretrained}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval().requires_grad_(False)
    lower_precision(model, precision)
    return Backbone(
        name=name,
        model=model,
        tokenize=tokenize,
        position_embedding=position_embedding,
        padding=padding,
        mean=own_mean if mean is None else tuple(mean),
        std=own_std if std is None else tuple(std),
        description={
            "name": name,
            "pretrained": pretrained,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "seed": seed if pretrained is None and state_dict is None else None,
            "precision": precision,
            "device": torch.device(device).type,
        },
    )


def lower_precision(model: Any, precision: str) -> None:
    """Matrix products of the image tower's blocks in half precision.

    Norms, the token stream between blocks, patch embedding, final projection and text tower stay
    as they are: they take little time, and rounding them costs more agreement with fp32 than all
    products together. Names are embedded once and cached. Against bf16 the first two blocks stay
    as well: all others inherit their errors, and each moves more labels than any later one.

    Args:
        model: an open_clip model, changed in place.
        precision: a key of ``PRECISIONS``.
    """
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return
    modules = tower.find("model", model).modules
    for module in modules[2 if dtype == torch.bfloat16 else 0 :]:
        _quick_gelu_to_silu(module.mlp)
        module.attn.to(dtype)
        module.mlp.to(dtype)


@torch.no_grad()
def _quick_gelu_to_silu(mlp: Any) -> None:
    """Quick GELU's factor moved into the layers around it: x sigmoid(a x) = silu(a x) / a.

    SiLU is one operation everywhere, and fused with the product before it, without rounding in
    between. To be done before weights are rounded.
    """
    if is_quick_gelu(getattr(mlp, "gelu", None)):
        mlp.gelu = nn.SiLU()
        mlp.c_fc.weight.mul_(QUICK_GELU)
        mlp.c_fc.bias.mul_(QUICK_GELU)
        mlp.c_proj.weight.div_(QUICK_GELU)


def infer_architecture(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's model config of a ViT whose weights have OpenAI's names.

    Heads are 64 wide in every CLIP of OpenAI, on both towers.

    Raises:
        LabError: a weight that tells the shape is missing.
    """
    shape = {key: tuple(value.shape) for key, value in state_dict.items()}
    try:
        width, _, patch, _ = shape["visual.conv1.weight"]
        positions = shape["visual.positional_embedding"][0] - 1
        text_width = shape["ln_final.weight"][0]
        vocab_size = shape["token_embedding.weight"][0]
        context_length = shape["positional_embedding"][0]
        embed_dim = shape["text_projection"][1]
    except (KeyError, ValueError) as error:
        raise LabError(
            f"the state dict is not that of a ViT in OpenAI's layout: {error} is missing or of "
            "another rank; name its architecture"
        ) from None
    side = round(positions**0.5)
    if side * side != positions:
        raise LabError(f"visual.positional_embedding has {positions} patches, not a square grid")

    def layers(prefix: str) -> int:
        indices = [key.split(".resblocks.")[1] for key in shape if key.startswith(prefix)]
        return 1 + max((int(index.split(".")[0]) for index in indices), default=-1)

    return {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": side * patch,
            "layers": layers("visual.transformer.resblocks."),
            "width": width,
            "head_width": 64,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": max(text_width // 64, 1),
            "layers": layers("transformer.resblocks."),
        },
    }


def _custom(architecture: dict[str, Any], quick_gelu: bool | None) -> tuple[Any, Callable]:
    wanted = {"embed_dim", "vision_cfg", "text_cfg"}
    if not wanted <= set(architecture):
        raise LabError(f"architecture lacks {', '.join(sorted(wanted - set(architecture)))}")
    if quick_gelu is None:
        quick_gelu = bool(architecture.get("quick_gelu", False))
    text = dict(architecture["text_cfg"])
    build = open_clip.CustomTextCLIP if architecture.get("custom_text") else open_clip.CLIP
    try:
        model = build(
            architecture["embed_dim"],
            dict(architecture["vision_cfg"]),
            text,
            quick_gelu,
            init_logit_bias=architecture.get("init_logit_bias"),
        )
    except (TypeError, RuntimeError) as error:
        raise LabError(f"architecture: {error}") from error
    length = text.get("context_length", 77)
    if "hf_tokenizer_name" not in text:
        return model, open_clip.SimpleTokenizer(context_length=length)
    hub, options = text["hf_tokenizer_name"], text.get("tokenizer_kwargs", {})
    return model, _Tokenizer(hub, lambda: open_clip.tokenizer.HFTokenizer(hub, length, **options))


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


def _named(name: str, pretrained: str | None, quick_gelu: bool | None) -> tuple[Any, Callable]:
    # open_clip fetches any "hf-hub:org/model" itself; other names are its own architectures.
    if ":" not in name and name not in open_clip.list_models():
        raise unknown("backbone", name, open_clip.list_models())
    known = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in known:
        raise unknown(f"pretrained tag of {name}", pretrained, known)
    options = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    try:
        with _quiet():
            if ":" not in name:
                # Without memory for weights: what is not read is known before it is fetched.
                with torch.device("meta"):
                    tower.find(name, open_clip.create_model(name, device="meta", **options))
            model = open_clip.create_model(name, pretrained=pretrained, **options)
            return model, _Tokenizer(name, lambda: open_clip.get_tokenizer(name))
    except OSError as error:
        raise LabError(
            f"{name} {pretrained}: open_clip could not fetch the weights ({error}); on a machine "
            "without that network give checkpoint=<local file>"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise LabError(f"{name} {pretrained}: open_clip cannot build it: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's progress notes, which go to the root logger; warnings are let through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _read_architecture(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LabError(f"architecture file {path}: {error}") from error


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise LabError(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # OpenAI publishes TorchScript archives, which weights_only cannot read.
            try:
                return torch.jit.load(path, map_location="cpu").state_dict()
            except RuntimeError:
                raise error from None
    except Exception as error:
        raise LabError(
            f"checkpoint {path} cannot be read as safetensors or torch weights: {error}"
        ) from error
    if isinstance(loaded, Mapping):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, Mapping) or not all(hasattr(v, "shape") for v in loaded.values()):
        raise LabError(f"checkpoint {path} holds no state dict (weights by name)")
    return loaded


def _load_weights(model: Any, state_dict: Mapping[str, Any], source: str, name: str) -> None:
    ignored = {"input_resolution", "context_length", "vocab_size"}  # OpenAI's archives have these
    given = {
        key: torch.as_tensor(np.asarray(value)) if not isinstance(value, Tensor) else value
        for key, value in state_dict.items()
        if key not in ignored
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
    model.load_state_dict({key: value.float() for key, value in given.items()})


def _text_settings(model: Any) -> dict[str, Any]:
    """What changes the text tower's function besides its weights."""
    text = getattr(model, "text", model)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None:
        return {"tower": type(text).__name__}
    return {
        "activation": repr(blocks[0].mlp.gelu),
        "causal": text.attn_mask is not None,
        "eps": text.ln_final.eps,
        "heads": blocks[0].attn.num_heads,
        "pool": getattr(text, "text_pool_type", getattr(text, "pool_type", None)),
    }


def _statistics(visual: Any, fetched: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in 0 .. 255: CLIP's, or those that a timm tower comes with."""
    if not hasattr(visual, "trunk"):
        return MEAN, STD
    known = visual.preprocess_cfg if fetched else visual.trunk.pretrained_cfg
    mean, std = (tuple(255 * value for value in known[key]) for key in ("mean", "std"))
    return mean, std


def _check_finite(model: Any, source: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LabError(f"{source}: weight {name} contains NaN or infinity")


def _add_weights(total: hashlib._Hash, weights: Mapping[str, Tensor]) -> hashlib._Hash:
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(_bytes(tensor))
    return total


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
