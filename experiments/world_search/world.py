"""Worn scenes: materials whose texture is worn off in parts, which keep the plain colour.

A patch of a worn part says nothing about its class, and its colour says which patches are its
like. How much is worn, on what scale, and how many materials meet are parameters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from sclip_lab.data import patchwork as first
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.patchwork import CLASSES, MATERIALS, OBJECTS, SPLITS, Array, Rng
from sclip_lab.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class World:
    """What a scene is drawn from; lengths in pixels, shares in 0 .. 1."""

    region: float = 40.0
    fewest: int = 3
    most: int = 5
    worn: float = 0.35
    scale: float = 40.0
    radius: tuple[float, float] = (18.0, 26.0)
    object_area: int = 5000  # one more object may stand in every so many pixels
    noise: int = 8


def _stripes(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(5.0, 8.0)
    return first._edge(first._wave(u / period) * period / 4.0)


def _zigzag(rng: Rng, u: Array, v: Array) -> Array:
    period, length = rng.uniform(5.0, 7.0), rng.uniform(9.0, 12.0)
    return first._edge(
        first._wave((u + first._wave(v / length) * length / 3.0) / period) * period / 5.0
    )


def _dots(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(4.5, 6.0)
    return first._edge(0.3 * period - first._lattice(u, v, period))


def _bubbles(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(10.0, 12.0)
    return first._edge(0.8 - np.abs(first._lattice(u, v, period) - 0.36 * period))


def _clouds(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(7.0, 9.0)
    return np.clip(1.4 * first._noise(rng, u / step, v / step) - 0.2, 0.0, 1.0)


def _marble(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(12.0, 15.0)
    return np.clip(first._wave(4.0 * first._noise(rng, u / step, v / step)) * 2.5 - 1.2, 0.0, 1.0)


TEXTURES = {
    **MATERIALS,
    "stripes": _stripes,
    "zigzag": _zigzag,
    "dots": _dots,
    "bubbles": _bubbles,
    "clouds": _clouds,
    "marble": _marble,
}
# Lattice period over the motif's radius: motifs stand close, and none is cut by its cell.
MOTIF = {"disc": 2.2, "triangle": 2.2, "cross": 2.2, "ring": 2.15}


def _motif(kind: str, rng: Rng, u: Array, v: Array) -> Array:
    """The shape of an object, small and repeated over its surface."""
    radius = rng.uniform(4.2, 5.2)
    period = MOTIF[kind] * radius
    du, dv = u - period * np.rint(u / period), v - period * np.rint(v / period)
    return first._edge(OBJECTS[kind](du, dv, radius))


def _apart(rng: Rng, taken: list[Array]) -> Array:
    """A colour in [40, 215], of twelve draws the one farthest from those taken."""
    draws = rng.uniform(40.0, 215.0, (12, 3))
    if not taken:
        taken.append(draws[0])
    else:
        distance = np.linalg.norm(draws[:, None] - np.array(taken)[None], axis=-1).min(axis=1)
        taken.append(draws[int(distance.argmax())])
    return taken[-1]


def _field(rng: Rng, height: int, width: int, step: float) -> Array:
    rows, columns = first._spline(height, step), first._spline(width, step)
    return rows @ rng.uniform(-1.0, 1.0, (rows.shape[1], columns.shape[1])) @ columns.T


def _surface(
    world: World, rng: Rng, texture: Array, mean: Array, field: Array, worn: float
) -> Array:
    """(pixels, 3): colours around ``mean``, the texture gone where ``field`` is lowest."""
    way = rng.normal(size=3)
    way *= rng.uniform(55.0, 75.0) / np.linalg.norm(way)
    threshold = np.quantile(field, worn) if worn > 0 else field.min() - 1.0
    seen = np.clip((field - threshold) * world.scale / 3.0 + 0.5, 0.0, 1.0)
    return mean + (seen * (texture - texture.mean()) * 2.0)[:, None] * way


def scene(world: World, rng: Rng, height: int, width: int) -> tuple[Array, Array]:
    """As `sclip_lab.data.patchwork.scene`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    chosen = rng.permutation(len(MATERIALS))[: rng.integers(world.fewest, world.most + 1)]
    fields = np.stack([_field(rng, height, width, world.region) for _ in chosen])
    region = np.argmax(fields, axis=0)
    mask = chosen[region].astype(np.uint8)
    image = np.empty((height, width, 3))
    taken: list[Array] = []
    for index, material in enumerate(chosen):
        inside = region == index
        wear = _field(rng, height, width, world.scale)
        mean = _apart(rng, taken)
        if inside.any():
            texture = TEXTURES[CLASSES[material]](rng, *first._frame(rng, y[inside], x[inside]))
            image[inside] = _surface(world, rng, texture, mean, wear[inside], world.worn)
    placed: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(1, 1 + height * width // world.object_area)):
        radius = rng.uniform(*world.radius)
        cy, cx = rng.uniform(8, height - 8), rng.uniform(8, width - 8)
        kind = int(rng.integers(len(OBJECTS)))
        name = CLASSES[len(MATERIALS) + kind]
        u, v = first._frame(rng, y - cy, x - cx)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        wear = _field(rng, height, width, world.scale)
        mean = _apart(rng, taken)
        if any((cy - b) ** 2 + (cx - a) ** 2 < (radius + r) ** 2 for b, a, r in placed):
            continue
        placed.append((cy, cx, radius))
        dy, dx = y - cy, x - cx
        a, b = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = OBJECTS[name](a, b, radius) > 0
        if inside.any():
            texture = _motif(name, rng, u[inside], v[inside])
            image[inside] = _surface(world, rng, texture, mean, wear[inside], world.worn)
            mask[inside] = len(MATERIALS) + kind
    image += rng.integers(-world.noise, world.noise + 1, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


class Worn(Dataset):
    """Scenes of a world, numbered from ``start``; for the search, from the train split."""

    def __init__(
        self, world: World, images: int, start: int = 0, height: int = 128, width: int = 160
    ) -> None:
        self.world, self.images, self.start = world, images, start
        self.name, self.height, self.width = "patchwork", height, width
        self.vocabulary = Vocabulary.named("patchwork")

    @property
    def names(self) -> list[str]:
        return [f"train_{self.start + index:06d}" for index in range(self.images)]

    def __getitem__(self, index: int) -> Sample:
        seed = [2, SPLITS["train"], self.start + index]
        rng = np.random.Generator(np.random.PCG64(seed))
        return Sample(self.names[index], *scene(self.world, rng, self.height, self.width))

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.world} {self.start} {self.images}".encode()).hexdigest()
