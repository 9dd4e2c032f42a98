"""Patchwork: procedural scenes with exact masks, on which the embedded model was trained.

A scene is a quilt of cells with shaped objects on top. All cells of one material have one colour in
a scene. Most of them show the material's texture, the others are plain: a plain cell does not show
its class, but other cells of its colour do. The texture of an object is its own shape, small and
repeated, and worn off in parts. Only structure tells classes apart: colours, angles, offsets and
scales are drawn anew for every scene and object. A scene is a function of (split, index, height,
width); the two splits draw from disjoint seeds.

All randomness is integers and uniform floats of PCG64. Fields are computed in float64 and rounded
to bytes at the end, so machines whose sines differ in the last bit agree. If they do not, ``key``
shows it, since it hashes the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property

import numpy as np

from sclip_lab.core.errors import unknown
from sclip_lab.core.values import check_arguments, within
from sclip_lab.data.base import Dataset, Sample, select, selection_words
from sclip_lab.data.vocabulary import Vocabulary

VERSION = 2
SPLITS = {"train": 0, "test": 1}
SMALLEST_SIDE = 64
LARGEST_SIDE = 4096
MOST_IMAGES = 100_000
TABLE = 64  # side of the lattice of random values behind the noise textures

Array = np.ndarray
Rng = np.random.Generator
Texture = Callable[[Rng, Array, Array], Array]
Shape = Callable[[Array, Array, float], Array]


def _wave(t: Array) -> Array:
    """Triangle wave of period 1 in [-1, 1]."""
    return 4.0 * np.abs(t - np.floor(t) - 0.5) - 1.0


def _edge(distance: Array) -> Array:
    """Turn a signed distance in pixels into a coverage in [0, 1], with an edge one pixel wide."""
    return np.clip(distance + 0.5, 0.0, 1.0)


def _repeated(t: Array, period: float) -> Array:
    """Distance in pixels, with its sign, to the nearest multiple of the period."""
    return t - period * np.rint(t / period)


def _lattice(u: Array, v: Array, period: float) -> Array:
    """Distance in pixels to the nearest point of a square lattice."""
    du, dv = _repeated(u, period), _repeated(v, period)
    return np.sqrt(du * du + dv * dv)


def _noise(rng: Rng, u: Array, v: Array) -> Array:
    """Value noise in [0, 1] with a lattice of step 1."""
    table = rng.random((TABLE, TABLE))
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3.0 - 2.0 * fu), fv * fv * (3.0 - 2.0 * fv)
    a, b = iu.astype(np.int64) % TABLE, iv.astype(np.int64) % TABLE
    a1, b1 = (a + 1) % TABLE, (b + 1) % TABLE
    low = table[a, b] * (1.0 - fv) + table[a, b1] * fv
    high = table[a1, b] * (1.0 - fv) + table[a1, b1] * fv
    return low * (1.0 - fu) + high * fu


def _stripes(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(5.0, 8.0)
    return _edge(_wave(u / period) * period / 4.0)


def _checks(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(9.0, 13.0)
    return _edge(_wave(u / period) * _wave(v / period) * period / 2.0)


def _dots(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(4.5, 6.0)
    return _edge(0.3 * period - _lattice(u, v, period))


def _bubbles(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(10.0, 12.0)
    return _edge(0.8 - np.abs(_lattice(u, v, period) - 0.36 * period))


def _grid(rng: Rng, u: Array, v: Array) -> Array:
    period = rng.uniform(7.0, 10.0)
    return _edge(0.9 - np.minimum(np.abs(_repeated(u, period)), np.abs(_repeated(v, period))))


def _zigzag(rng: Rng, u: Array, v: Array) -> Array:
    period, length = rng.uniform(5.0, 7.0), rng.uniform(9.0, 12.0)
    return _edge(_wave((u + _wave(v / length) * length / 3.0) / period) * period / 5.0)


def _speckle(rng: Rng, u: Array, v: Array) -> Array:
    return rng.integers(0, 2, u.shape).astype(np.float64)


def _clouds(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(7.0, 9.0)
    return np.clip(1.4 * _noise(rng, u / step, v / step) - 0.2, 0.0, 1.0)


def _blobs(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(5.0, 7.0)
    return _edge((_noise(rng, u / step, v / step) - 0.5) * 2.0 * step)


def _fur(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(1.2, 1.6)
    return np.clip(1.8 * _noise(rng, u / step, v / (8.0 * step)) - 0.4, 0.0, 1.0)


def _marble(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(12.0, 15.0)
    return np.clip(_wave(4.0 * _noise(rng, u / step, v / step)) * 2.5 - 1.2, 0.0, 1.0)


def _mosaic(rng: Rng, u: Array, v: Array) -> Array:
    step = rng.uniform(4.5, 6.5)
    table = rng.random((TABLE, TABLE))
    return table[
        np.floor(u / step).astype(np.int64) % TABLE, np.floor(v / step).astype(np.int64) % TABLE
    ]


def _disc(u: Array, v: Array, radius: float) -> Array:
    return radius - np.sqrt(u * u + v * v)


def _triangle(u: Array, v: Array, radius: float) -> Array:
    sides = [u, -0.5 * u + 0.75**0.5 * v, -0.5 * u - 0.75**0.5 * v]
    return 0.62 * radius - np.maximum(np.maximum(sides[0], sides[1]), sides[2])


def _cross(u: Array, v: Array, radius: float) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(radius - np.maximum(a, b), 0.36 * radius - np.minimum(a, b))


def _ring(u: Array, v: Array, radius: float) -> Array:
    return 0.26 * radius - np.abs(np.sqrt(u * u + v * v) - 0.74 * radius)


MATERIALS: dict[str, Texture] = {
    texture.__name__[1:]: texture for texture in (
        _stripes, _checks, _dots, _bubbles, _grid, _zigzag, _speckle, _clouds, _blobs, _fur,
        _marble, _mosaic,
    )
}  # fmt: skip
OBJECTS: dict[str, Shape] = {
    "disc": _disc, "triangle": _triangle, "cross": _cross, "ring": _ring,
}  # fmt: skip
CLASSES = (*MATERIALS, *OBJECTS)


def _frame(rng: Rng, y: Array, x: Array) -> tuple[Array, Array]:
    """Coordinates turned by a random angle and moved by a random offset."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y + rng.uniform(0, 64), cos * y - sin * x + rng.uniform(0, 64)


def _apart(rng: Rng, others: list[Array]) -> Array:
    """Draw twelve colours in [40, 215]; append the one farthest from ``others`` and return it."""
    draws = rng.uniform(40.0, 215.0, (12, 3))
    distances = [((draws - colour) ** 2).sum(axis=1) for colour in others]
    others.append(draws[int(np.min(distances, axis=0).argmax()) if distances else 0])
    return others[-1]


def _surface(rng: Rng, texture: Array, coverage: Array, mean: Array) -> Array:
    """(pixels, 3) colours with the given mean; ``coverage`` 0 .. 1 blends the texture in."""
    contrast = rng.uniform(-1.0, 1.0, 3)
    contrast *= rng.uniform(55.0, 75.0) / np.sqrt((contrast * contrast).sum())
    return mean + (coverage * (texture - texture.mean()) * 2.0)[:, None] * contrast


@cache
def _spline(length: int, step: float) -> Array:
    """(length, nodes) weights of the uniform cubic B-spline with a node every ``step`` pixels."""
    position = np.arange(length) / step
    t = np.abs(position[:, None] - np.arange(-1, int(position[-1]) + 3)[None, :])
    near, far = 2.0 / 3.0 - t * t + t**3 / 2.0, (2.0 - t) ** 3 / 6.0
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))


def _field(rng: Rng, height: int, width: int, step: float) -> Array:
    """A smooth random field that changes on the scale of ``step`` pixels."""
    rows, columns = _spline(height, step), _spline(width, step)
    return rows @ rng.uniform(-1.0, 1.0, (rows.shape[1], columns.shape[1])) @ columns.T


CELL = 26.0  # pixels between the centres of cells: three patches of the embedded network
FEWEST, MOST = 4, 6  # materials in a scene
PLAIN = 0.4  # share of a material's cells, and of an object's surface, without texture
WEAR = 28.0  # pixels: scale of the parts where an object's texture is worn off
RADIUS = 20.0, 27.0  # of an object, pixels
# Factors on the radius: a triangle or a cross covers little of the disc of its radius.
SIZE = {"disc": 1.0, "triangle": 1.3, "cross": 1.15, "ring": 1.1}
MOTIF_RADIUS = 3.5, 4.3  # of a motif, a small shape on an object, pixels
SPACING = {"disc": 2.2, "triangle": 2.2, "cross": 2.2, "ring": 2.15}  # period of motifs, in radii


def scene(rng: Rng, height: int, width: int, easy: bool = False) -> tuple[Array, Array]:
    """(height, width, 3) uint8 RGB and (height, width) uint8 ids into ``CLASSES`` of one scene.

    An ``easy`` scene, for the beginning of training, has one or two materials, all of them
    textured.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    fewest, most, plain = (1, 2, 0.0) if easy else (FEWEST, MOST, PLAIN)
    chosen = rng.permutation(len(MATERIALS))[: rng.integers(fewest, most + 1)]
    kind, textured = _quilt(rng, y, x, len(chosen), plain)
    mask = chosen[kind].astype(np.uint8)
    image = np.empty((height, width, 3))
    colours: list[Array] = []
    for index, material in enumerate(chosen):
        inside = kind == index
        mean = _apart(rng, colours)
        if inside.any():
            texture = MATERIALS[CLASSES[material]](rng, *_frame(rng, y[inside], x[inside]))
            image[inside] = _surface(rng, texture, textured[inside], mean)
    _place_objects(rng, y, x, image, mask, colours, plain)
    image += rng.integers(-8, 9, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def _quilt(rng: Rng, y: Array, x: Array, kinds: int, plain: float) -> tuple[Array, Array]:
    """The material of each pixel's cell (0 .. kinds - 1), and whether the cell is textured.

    A share ``plain`` of a material's cells is not textured.
    """
    rows, columns = (int(side.max() / CELL) + 3 for side in (y, x))
    nodes = np.argwhere(np.ones((rows, columns), bool)) - rng.uniform(0, 1, 2)
    nodes = (nodes + rng.uniform(-0.25, 0.25, nodes.shape)) * CELL
    nearest, owner = np.full(y.shape, np.inf), np.zeros(y.shape, int)
    for index, (row, column) in enumerate(nodes):
        # No pixel is farther from its node than 1.07 cells.
        near = tuple(
            slice(max(0, int(middle - 1.1 * CELL)), max(0, int(middle + 1.1 * CELL) + 2))
            for middle in (row, column)
        )
        distance = (y[near] - row) ** 2 + (x[near] - column) ** 2
        closer = distance < nearest[near]
        nearest[near][closer], owner[near][closer] = distance[closer], index
    # All kinds in turn, in an order drawn anew each time, so that none is rare.
    turns = [rng.permutation(kinds) for _ in range(-(-len(nodes) // kinds))]
    kind = np.concatenate(turns)[: len(nodes)]
    textured = np.zeros(len(nodes), bool)
    for index in range(kinds):
        cells = rng.permutation(np.flatnonzero(kind == index))
        textured[cells[: round((1.0 - plain) * len(cells))]] = True
    return kind[owner], textured[owner]


def _place_objects(
    rng: Rng, y: Array, x: Array, image: Array, mask: Array, colours: list[Array], plain: float
) -> None:
    """Paint objects that do not touch each other into ``image`` and ``mask``.

    Each is worn off on a share ``plain`` of its surface.
    """
    height, width = mask.shape
    placed: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(2, 2 + height * width // 4000)):
        cy, cx = rng.uniform(8, height - 8), rng.uniform(8, width - 8)
        kind = int(rng.integers(len(OBJECTS)))
        name = CLASSES[len(MATERIALS) + kind]
        radius = rng.uniform(*RADIUS) * SIZE[name]
        angle = rng.uniform(0.0, 2.0 * np.pi)
        if any((cy - b) ** 2 + (cx - a) ** 2 < (radius + r) ** 2 for b, a, r in placed):
            continue
        placed.append((cy, cx, radius))
        dy, dx = y - cy, x - cx
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = OBJECTS[name](u, v, radius) > 0
        if not inside.any():
            continue
        texture = _motif(rng, name, *_frame(rng, y[inside], x[inside]))
        wear = _field(rng, height, width, WEAR)[inside]
        coverage = np.clip((wear - np.quantile(wear, plain)) * WEAR / 3.0 + 0.5, 0.0, 1.0)
        image[inside] = _surface(rng, texture, coverage, _apart(rng, colours))
        mask[inside] = len(MATERIALS) + kind


def _motif(rng: Rng, name: str, u: Array, v: Array) -> Array:
    """An object's shape, small and repeated, as a texture in [0, 1]."""
    radius = rng.uniform(*MOTIF_RADIUS)
    period = SPACING[name] * radius
    return _edge(OBJECTS[name](_repeated(u, period), _repeated(v, period), radius))


class Patchwork(Dataset):
    """Procedural scenes, numbered from 0.

    Args:
        split: "train" or "test".
        limit: number of scenes.
        height, width: pixels, 64 .. 4096.
        name: what tables call it.
        sample: draw this many of the ``limit`` scenes at random; None for all.
        seed: of the draw of ``sample``.

    Raises:
        LabError: an unknown split, no scenes, or sides out of range.
    """

    def __init__(
        self,
        split: str = "test",
        limit: int = 64,
        height: int = 128,
        width: int = 160,
        name: str = "patchwork",
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise unknown("patchwork split", split, SPLITS)
        check_arguments(Patchwork, {"limit": limit, "height": height, "width": width})
        within("patchwork: limit", limit, 1, MOST_IMAGES)
        within("patchwork: height", height, SMALLEST_SIDE, LARGEST_SIDE)
        within("patchwork: width", width, SMALLEST_SIDE, LARGEST_SIDE)
        self.name = name
        self.split, self.height, self.width = split, height, width
        self.selection = selection_words(limit, sample, seed)
        self.vocabulary = Vocabulary.named("patchwork")
        self._numbers = [int(n) for n in select(list(map(str, range(limit))), None, sample, seed)]
        self._names = [f"{split}_{number:06d}" for number in self._numbers]

    @property
    def names(self) -> list[str]:
        return self._names

    def __getitem__(self, index: int) -> Sample:
        number = [VERSION, SPLITS[self.split], self._numbers[index]]
        image, mask = scene(np.random.Generator(np.random.PCG64(number)), self.height, self.width)
        return Sample(self._names[index], image, mask)

    @cached_property
    def key(self) -> str:
        """sha256 over the pixels of all scenes, their masks and the class names."""
        state = hashlib.sha256(self.vocabulary.key.encode())
        for index in range(len(self)):
            sample = self[index]
            state.update(sample.name.encode())
            state.update(np.array(sample.image.shape, dtype="<u4").tobytes())
            state.update(sample.image.tobytes() + sample.mask.tobytes())
        return state.hexdigest()
