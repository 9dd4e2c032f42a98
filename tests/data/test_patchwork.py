"""Patchwork: the same scene everywhere, exact masks, classes told by structure, not colour."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sclip_lab.core.errors import LabError
from sclip_lab.data.patchwork import CLASSES, MATERIALS, OBJECTS, Patchwork, scene

# sha256 over pixels and masks of four scenes, taken when the world was fixed and the model trained.
# Another digest means that the committed weights and every recorded number belong to another world.
FIXED = "64b91eda780cd4db518f6f04a5b17ae956b0d07664aaf5ae409ce029cbe68990"


def test_the_world_is_the_one_the_committed_model_was_trained_on() -> None:
    assert Patchwork("train", limit=4).key == FIXED


def test_a_scene_depends_on_split_and_index_alone() -> None:
    few, many = Patchwork("test", limit=3), Patchwork("test", limit=9)
    backwards = [many[index] for index in reversed(range(3))][::-1]
    for index, sample in enumerate(backwards):
        assert np.array_equal(few[index].image, sample.image)
        assert np.array_equal(few[index].mask, sample.mask)
        assert few.names[index] == sample.name == many.names[index]


def test_splits_share_no_scene() -> None:
    def prints(split: str) -> set[str]:
        world = Patchwork(split, limit=20)
        return {hashlib.sha256(world[i].image.tobytes()).hexdigest() for i in range(20)}

    train, test = prints("train"), prints("test")
    assert len(train) == len(test) == 20
    assert not train & test


def test_samples_fit_the_contract() -> None:
    world = Patchwork("test", limit=12, height=96, width=130)
    assert len(world) == 12
    assert len(set(world.names)) == 12
    for index, name in enumerate(world.names):
        sample = world[index]
        assert sample.name == name
        assert (sample.image.shape, sample.image.dtype) == ((96, 130, 3), np.uint8)
        assert (sample.mask.shape, sample.mask.dtype) == ((96, 130), np.uint8)
        assert sample.mask.max() < world.vocabulary.num_classes
    with pytest.raises(IndexError):
        world[12]


def test_vocabulary_file_names_the_classes_in_id_order() -> None:
    vocabulary = Patchwork("test", limit=1).vocabulary
    assert tuple(vocabulary.names) == CLASSES == (*MATERIALS, *OBJECTS)
    assert vocabulary.num_classes >= 16


def test_every_class_occurs_in_the_default_test_split() -> None:
    world = Patchwork()
    counts = sum(np.bincount(world[i].mask.ravel(), minlength=16) for i in range(len(world)))
    assert (counts / counts.sum() > 0.005).all()


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disc", np.pi),
        ("triangle", 3 * 3**0.5 * 0.62**2),
        ("cross", 8 * 0.36 - 4 * 0.36**2),
        ("ring", np.pi * (1 - 0.48**2)),
    ],
)
def test_an_object_covers_the_area_of_its_formula(name: str, area: float) -> None:
    """Closed forms: disc pi r^2; equilateral triangle 3 sqrt(3) rho^2 with inradius rho; two bars
    2 (2r)(2w) less their common square; annulus pi (r^2 - s^2). Counted on a grid of step 0.05."""
    radius, step = 10.0, 0.05
    v, u = np.mgrid[-16:16:step, -16:16:step] + 0.013
    covered = np.count_nonzero(OBJECTS[name](u, v, radius) > 0) * step**2
    assert covered == pytest.approx(area * radius**2, rel=5e-3)


def test_textures_stay_in_range_and_are_not_flat() -> None:
    y, x = np.mgrid[0:64, 0:64].astype(np.float64)
    for name, texture in MATERIALS.items():
        for seed in range(5):
            field = texture(np.random.default_rng(seed), x, y)
            assert field.shape == (64, 64), name
            assert field.min() >= 0.0, name
            assert field.max() <= 1.0, name
            assert field.std() > 0.1, name


def test_colour_carries_no_class() -> None:
    """Mean colour of each material over many scenes is the same within four standard errors."""
    means: dict[int, list[np.ndarray]] = {index: [] for index in range(len(MATERIALS))}
    for index in range(150):
        image, mask = scene(np.random.Generator(np.random.PCG64([9, index])), 64, 96)
        for kind in means:
            if (inside := mask == kind).sum() > 200:
                means[kind].append(image[inside].mean(axis=0))
    everything = np.concatenate([np.stack(result) for result in means.values()])
    for result in means.values():
        error = everything.std(axis=0) / len(result) ** 0.5
        assert (np.abs(np.mean(result, axis=0) - everything.mean(axis=0)) < 4 * error).all()


def cells(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all patches of 8x8 pixels of one material in a scene: its class, and its contrast."""
    world = Patchwork("train", limit=index + 1)
    image, mask = world[index].image[:128, :160], world[index].mask
    pixels = image.reshape(16, 8, 20, 8, 3).swapaxes(1, 2).reshape(320, 64, 3).astype(float)
    kinds = mask.reshape(16, 8, 20, 8).swapaxes(1, 2).reshape(320, 64)
    pure = (kinds == kinds[:, :1]).all(axis=1)
    return kinds[pure, 0], pixels.std(axis=1).mean(axis=1)[pure]


def test_every_material_of_a_scene_has_plain_cells_and_textured_ones() -> None:
    """Plain cells show noise alone, uniform on -8 .. 8: a deviation of 4.9."""
    plain = []
    for index in range(30):
        kinds, contrast = cells(index)
        plain.append((contrast < 6)[kinds < len(MATERIALS)].mean())
    assert np.mean(plain) == pytest.approx(0.4, abs=0.08)


def test_a_plain_cell_has_the_colour_of_its_like() -> None:
    """The mean colour of a textured region is that of the plain cells of its material."""
    for index in range(10):
        world = Patchwork("train", limit=index + 1)
        image, mask = world[index].image.astype(float), world[index].mask
        for kind in np.unique(mask[mask < len(MATERIALS)]):
            ours = image[mask == kind]
            middle = np.median(ours, axis=0)
            # Clipping to bytes moves the means of strong colours.
            assert np.abs(ours.mean(axis=0) - middle).max() < 45


def test_easy_scenes_are_of_one_or_two_materials_and_textured() -> None:
    for index in range(10):
        rng = np.random.Generator(np.random.PCG64([9, index]))
        _, mask = scene(rng, 128, 160, easy=True)
        assert len(set(np.unique(mask)) & set(range(len(MATERIALS)))) <= 2


def test_digest_sees_split_size_and_number() -> None:
    digests = {
        Patchwork("test", limit=2).key,
        Patchwork("test", limit=3).key,
        Patchwork("train", limit=2).key,
        Patchwork("test", limit=2, height=96).key,
        Patchwork("test", limit=2, width=96).key,
    }
    assert len(digests) == 5
    assert Patchwork("test", limit=2).key in digests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "did you mean test"),
        ({"limit": 0}, "at least 1"),
        ({"height": 32}, "at least 64"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Patchwork(**arguments)  # type: ignore[arg-type]
