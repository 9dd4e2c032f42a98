"""Learned projection: its loss and its gradient against the evaluation's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation import learned_projection
from sclip_lab.evaluation.learned_projection import learn_projection, save_projection
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.dense_features import dense_features

QUERY_CLASSES = [0, 1, 1, 2]


class Stripes(Dataset):
    """Square photos of the network's own size: a stripe of each class over patch rows, noise of
    the class's colour, and a void row."""

    name = "stripes"
    vocabulary = Vocabulary("stripes", (("red",), ("green", "lime"), ("blue",)))

    def __init__(self, images: int = 6, void: bool = False) -> None:
        self.images = images
        self.void = void

    @property
    def names(self) -> list[str]:
        return [str(i) for i in range(self.images)]

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        mask = np.zeros((64, 64), np.uint8)
        image = rng.integers(0, 120, (64, 64, 3), np.uint8)
        for row, label in enumerate(rng.permutation(3)):
            mask[16 * row : 16 * row + 16] = label
            image[16 * row : 16 * row + 16, :, label] += 130
        mask[48:] = self.ignore_index
        return Sample(str(index), image, np.full_like(mask, 255) if self.void else mask)

    @property
    def key(self) -> str:
        return f"stripes {self.images}"


@pytest.fixture(scope="module")
def text(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(QUERY_CLASSES), backbone.embed_dim, generator=generator)


def public_loss(backbone: Backbone, text: Tensor, matrix: Tensor, path: Path, **options) -> float:
    """The same loss from dense features of ``csa_learned``, synonyms merged by hand."""
    save_file({"projection": matrix}, path)
    attention = load_attention("csa_learned", projection_file=str(path), **options)
    samples = [Stripes()[i] for i in range(6)]
    photos = np.stack([sample.image.transpose(2, 0, 1) for sample in samples])
    labels = torch.from_numpy(np.stack([s.mask[8::16, 8::16] for s in samples])).long()
    features = dense_features(backbone, photos, attention, normalize=True)
    queries = backbone.model.logit_scale.exp() * features @ F.normalize(text, dim=-1).T
    merged = [queries[..., 0], queries[..., 1:3].amax(-1), queries[..., 3]]
    logits = torch.stack(merged, dim=1)
    return F.cross_entropy(logits, labels, ignore_index=255).item()


@pytest.mark.parametrize("per_head", [True, False])
def test_loss_is_that_of_the_evaluated_variant(
    per_head: bool, backbone: Backbone, text: Tensor, tmp_path: Path
) -> None:
    matrix, losses = learn_projection(
        backbone, Stripes(), text, QUERY_CLASSES,
        steps=12, lr=0.02, per_head=per_head, progress=False,
    )  # fmt: skip

    def loss(projection: Tensor) -> float:
        path = tmp_path / "w.safetensors"
        return public_loss(backbone, text, projection, path, per_head=per_head)

    assert len(losses) == 12
    assert losses[0] == pytest.approx(loss(torch.eye(64)), rel=1e-4)
    assert loss(matrix) < losses[-1] < losses[0]
    assert matrix.shape == (64, 64)
    assert matrix.dtype == torch.float32


def test_first_step_follows_the_gradient(backbone: Backbone, text: Tensor, tmp_path: Path) -> None:
    # Adam's first step is lr * sign(gradient), entry by entry.
    matrix, _ = learn_projection(
        backbone, Stripes(), text, QUERY_CLASSES, steps=1, lr=1e-3, progress=False
    )
    moved = matrix - torch.eye(64)
    torch.testing.assert_close(moved.abs(), torch.full((64, 64), 1e-3), atol=1e-4, rtol=0)
    for seed in range(3):
        direction = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
        direction = direction.abs() * -moved.sign()  # uphill in every entry
        up, down = (
            public_loss(
                backbone, text, torch.eye(64) + sign * 1e-3 * direction, tmp_path / "w.safetensors"
            )
            for sign in (1, -1)
        )
        assert up > down


def test_seed_decides(backbone: Backbone, text: Tensor) -> None:
    def learn(seed: int) -> Tensor:
        return learn_projection(
            backbone, Stripes(), text, QUERY_CLASSES,
            images=4, steps=3, seed=seed, progress=False,
        )[0]  # fmt: skip

    assert torch.equal(learn(0), learn(0))
    assert not torch.equal(learn(0), learn(1))


def test_network_stays_frozen(backbone: Backbone, text: Tensor) -> None:
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    learn_projection(backbone, Stripes(), text, QUERY_CLASSES, steps=2, progress=False)
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_works_within_inference_mode(backbone: Backbone, text: Tensor) -> None:
    with torch.inference_mode():
        inside = learn_projection(
            backbone, Stripes(), text.clone(), QUERY_CLASSES, steps=2, progress=False
        )[1]
    outside = learn_projection(backbone, Stripes(), text, QUERY_CLASSES, steps=2, progress=False)
    assert inside == outside[1]


def test_photos_of_any_shape_give_their_centre(backbone: Backbone, text: Tensor) -> None:
    class Framed(Stripes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            around = ((0, 0), (30, 31))
            image = np.pad(sample.image, (*around, (0, 0)))
            return Sample(sample.name, image, np.pad(sample.mask, around))

    framed, plain = (
        learn_projection(backbone, data, text, QUERY_CLASSES, steps=2, progress=False)[1]
        for data in (Framed(), Stripes())
    )
    assert framed == plain


def test_file_tells_where_it_comes_from(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    save_projection(path, torch.eye(64), backbone, Stripes(), steps=5, seed=1, per_head=True)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("projection"), torch.eye(64))
    assert metadata.pop("seal").startswith("sclip-lab-seal:")
    assert metadata == {
        "backbone": backbone.key,
        "dataset": "stripes 6",
        "steps": "5",
        "seed": "1",
        "per_head": "True",
    }
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_file_of_the_other_kind_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_projection(path, torch.eye(64), backbone, Stripes(), per_head=False)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for per_head in (False, True):
        attention = load_attention("csa_learned", projection_file=str(path), per_head=per_head)
        if per_head:
            with pytest.raises(LabError, match="learned with per_head=False, not True"):
                dense_features(backbone, images, attention)
        else:
            assert dense_features(backbone, images, attention).isfinite().all()


def test_folder_that_cannot_be_written(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot write"):
        save_projection(tmp_path / "file" / "w", torch.eye(64), backbone, Stripes())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps 0"),
        ({"images": 0}, "images 0"),
        ({"lr": 0.0}, "lr 0.0 must be above 0"),
        ({"dataset": Stripes(void=True)}, "none of 6 photos has a label"),
        ({"query_classes": [0, 1, 1, 1]}, r"label 2, but the text has classes 0 \.\. 1"),
        ({"query_classes": [0, 1]}, r"text embeddings \(4, 24\) must be \(2 queries, 24\)"),
        ({"lr": 1e30}, "lr 1e.30 must be above 0 and at most 1000"),
    ],
)
def test_bad_input(options: dict, says: str, backbone: Backbone, text: Tensor) -> None:
    arguments = {"dataset": Stripes(), "query_classes": QUERY_CLASSES, **options}
    with pytest.raises(LabError, match=says):
        learn_projection(backbone, text_embeddings=text, progress=False, **arguments)


def test_a_loss_without_a_value_stops(
    backbone: Backbone, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_projection, "_loss", lambda *_: torch.tensor(float("nan")))
    settings = {"dataset": Stripes(), "query_classes": QUERY_CLASSES}
    with pytest.raises(LabError, match="loss is nan at step 0; lower lr"):
        learn_projection(backbone, text_embeddings=text, progress=False, **settings)
