"""A learned projection for correlative self-attention: frozen CLIP, one matrix trained.

SCLIP, arXiv 2312.01597, section 4.3, compares its reused projections with one "learned" from 64
training samples. Nothing else is known here of how it was learned: not the objective, the
optimiser, the learning rate or the number of steps. What follows is this laboratory's choice:
cross-entropy of patch logits against the majority label of each patch, by Adam, from the identity,
where W_r starts as CSA without a projection. A score made with it says what a learned W_r can do;
it does not reproduce the paper's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.projected import BELONGS, self_attention
from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.core.values import LARGEST_SEED, check, within
from sclip_lab.data.base import Dataset
from sclip_lab.diagnostics.observation import VOID
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.photos import to_input
from sclip_lab.segmentation.readouts.cosine import unit

BATCH = 16  # photos of one step


def learn_projection(
    backbone: Backbone,
    dataset: Dataset,
    text_embeddings: Tensor,
    query_classes: Sequence[int],
    *,
    images: int = 64,
    steps: int = 100,
    lr: float = 1e-3,
    per_head: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Tensor, list[float]]:
    """Train W_r of softmax(X W_r W_r^T X^T / sqrt(dim)) in the last block; residual and MLP are
    kept.

    The objective is not the paper's, which is unknown; see the module's head.

    Args:
        backbone: frozen; its weights do not change.
        dataset: photos with masks, from a split that nothing is evaluated on.
        text_embeddings: (queries, embed_dim), any scale.
        query_classes: class of each query; the best of a class's queries counts.
        images: how many photos, drawn with ``seed``; all of them where there are fewer. Each gives
            its centre square, resized to what the backbone was trained on.
        steps: of Adam.
        lr: its learning rate.
        per_head: as in `sclip_lab.attention.projected.learned`, which must get the same value.
        seed: of the photos and the batches.
        progress: show a bar.

    Returns:
        W_r, (width, width) float32 on the CPU, and the loss of every step before its update.

    Raises:
        LabError: nothing labelled to learn from, a label without a query, shapes that do not fit,
            or a loss that is no longer finite.
    """
    if text_embeddings.shape != (len(query_classes), backbone.embed_dim) or not query_classes:
        raise LabError(
            f"text embeddings {tuple(text_embeddings.shape)} must be "
            f"({len(query_classes)} queries, {backbone.embed_dim}), with at least one query"
        )
    for name, number in (("images", images), ("steps", steps)):
        within(name, number, 1, 1e7)
    check("lr", lr, float)
    within("lr", lr, 0, 1e3, above=True)
    within("seed", seed, 0, LARGEST_SEED)
    generator = torch.Generator().manual_seed(seed)
    # An application may run in inference mode, whose tensors cannot be learned from.
    with torch.inference_mode(False), torch.enable_grad():
        tokens, labels = _windows(backbone, dataset, images, generator, progress)
        classes = torch.tensor(list(query_classes))
        if labels.max() > classes.max():
            raise LabError(
                f"data set {dataset.name} has label {int(labels.max())}, but the text has classes "
                f"0 .. {int(classes.max())} only"
            )
        classes, labels = classes.to(backbone.device), labels.to(backbone.device)
        text = unit(text_embeddings.detach().clone().float()).to(backbone.device)
        matrix = torch.eye(backbone.blocks[-1].width).to(backbone.device).requires_grad_()
        optimiser = torch.optim.Adam([matrix], lr=lr)
        losses: list[float] = []
        bar = Bar(range(steps), "learn projection", unit="step", disable=not progress)
        for step in bar:
            chosen = torch.randperm(len(tokens), generator=generator)[:BATCH]
            patches = _patch_embeddings(backbone, tokens[chosen], matrix, per_head)
            loss = _loss(backbone, patches, labels[chosen.to(labels.device)], text, classes)
            if not torch.isfinite(loss):
                raise LabError(f"loss is {loss.item()} at step {step}; lower lr {lr}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
        if not torch.isfinite(matrix).all():
            raise LabError(f"the projection is no longer finite after {steps} steps; lower lr {lr}")
        return matrix.detach().cpu(), losses


def save_projection(
    path: str | Path, projection: Tensor, backbone: Backbone, dataset: Dataset, **settings: object
) -> None:
    """Write what ``attention=csa_learned attention.projection_file=...`` reads.

    ``projection`` is (width, width). The safetensors file also says with which network, data set
    and settings it was learned.
    """
    metadata = {"backbone": backbone.key, "dataset": dataset.key}
    metadata |= {key: str(value) for key, value in settings.items()}
    tensors = {"projection": projection.float().contiguous()}
    files.write_tensors(Path(path), tensors, BELONGS, metadata)


def _windows(
    backbone: Backbone,
    dataset: Dataset,
    images: int,
    generator: torch.Generator,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Tokens that enter the last block, (images, tokens, width) on the backbone's device, and patch
    labels, (images, patches); photos without a label are left out."""
    size = backbone.image_size
    order = torch.randperm(len(dataset), generator=generator)[:images].tolist()
    tokens, labels = [], []
    for i in Bar(order, "read photos", unit="image", disable=not progress):
        sample = dataset[i]
        image, mask = _centre(sample.image), _centre(sample.mask)
        plan = windows.plan((size, size), mask.shape, None, size, backbone.patch_size)
        answer = windows.patch_labels(plan, mask, dataset.ignore_index).flatten()
        if (answer == VOID).all():
            continue
        with torch.no_grad():
            # A copy of what was made in inference mode can be learned from; the original cannot.
            x = backbone.embed(to_input(image, (size, size), backbone)[None]).clone()
            for plain in backbone.blocks_on(backbone.grid(size, size))[:-1]:
                x = plain.plain(x)
        tokens.append(x)
        labels.append(answer)
    if not tokens:
        raise LabError(f"data set {dataset.name}: none of {len(order)} photos has a label to learn")
    return torch.cat(tokens), torch.stack(labels)


def _centre(array: np.ndarray) -> np.ndarray:
    """The largest square in the middle of (height, width, ...)."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(array[top : top + side, left : left + side])


def _patch_embeddings(backbone: Backbone, tokens: Tensor, matrix: Tensor, per_head: bool) -> Tensor:
    """(images, patches, embed_dim) float32, with the last block's attention through ``matrix``."""
    side = backbone.image_size // backbone.patch_size
    block = backbone.blocks_on((side, side))[-1]
    ctx = Context(BlockInput(block, tokens), (), (side, side))
    after = tokens + block.output(self_attention(ctx, matrix, per_head), ctx.value)
    return backbone.head(block.with_mlp(after, tokens)[:, block.prefix :]).float()


def _loss(
    backbone: Backbone, patches: Tensor, labels: Tensor, text: Tensor, classes: Tensor
) -> Tensor:
    """Cross-entropy of CLIP's logits, the best query of each class, over labelled patches."""
    scale = backbone.model.logit_scale.float().exp()
    queries = scale * unit(patches) @ text.T
    logits = queries.new_full((*queries.shape[:-1], int(classes.max()) + 1), -torch.inf)
    logits = logits.scatter_reduce(-1, classes.expand_as(queries), queries, "amax")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=VOID)
