"""Figures made of photos: predictions beside the truth, and attention maps of chosen points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from sclip_lab.core.errors import LabError
from sclip_lab.report.figures import PLAIN, Figure
from sclip_lab.results.store.picture_files import Picture, Prediction
from sclip_lab.results.table import metrics

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec
    from sclip_lab.segmentation.windows import Axis

# Okabe and Ito's colours; each further one is the furthest in CIELAB from all before it, also as
# seen without green cones.
PALETTE = [
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#0000FF",
    "#00FF87", "#000F87", "#69000F", "#A55AFF", "#4B0F4B", "#A5874B", "#A50087",
]  # fmt: skip
SIDE_BY_SIDE = 6  # pictures in a row of a panel; the others go on in the next row
LETTER = 0.06  # inches: width of a letter of a title
BACKGROUND, OTHER = "#CCCCCC", "#555555"
FONT: Any = {
    **PLAIN,
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "legend.fontsize": 7,
}


def panel(
    pictures: Sequence[Picture], named: bool = False, colors: Mapping[str, str] | None = None
) -> Figure:
    """Photo, truth and the prediction of every variant, one block of rows per photo. Each
    prediction has its mIoU x100 on this photo in its corner.

    Args:
        pictures: from `sclip_lab.results.store.picture_files.load`.
        named: write each photo's name above it.
        colors: by class, where several figures share them; see `class_colors`. All other classes
            are one grey. Ignored pixels are striped.
    """
    _check(pictures)
    colors = colors or class_colors(pictures)
    tiles = max(len(item.predictions) for item in pictures) + 2
    rows = -(-tiles // SIDE_BY_SIDE)
    across = -(-tiles // rows)  # fill the rows evenly
    width = 9.0 / max(across, 4)
    titles = [
        [item.name.replace(": ", "\n") if named else "photo", "truth"]
        + [_folded(p.label, width) for p in item.predictions]
        for item in pictures
    ]
    starts = [(block, row * across) for block in titles for row in range(rows)]
    lines = [max(t.count("\n") for t in [*b[i : i + across], ""]) + 1 for b, i in starts]
    heights = [width * p.image.shape[0] / p.image.shape[1] for p in pictures for _ in range(rows)]
    handles = _legend(pictures, colors)
    legend_columns = max(1, int(width * across / 1.5))
    footer = 0.25 + 0.16 * -(-len(handles) // legend_columns)
    with rc_context(FONT):
        figure, grid = _grid(
            heights, [width] * across, [0.13 * n + 0.03 for n in lines], bottom=footer
        )
        for number, item in enumerate(pictures):
            cells = grid[rows * number : rows * (number + 1)].ravel()
            labels = [item.mask, *(prediction.prediction for prediction in item.predictions)]
            shown = [item.image, *(_paint(one, item, colors) for one in labels)]
            for ax, title, picture in zip(cells, titles[number], shown, strict=False):
                ax.imshow(picture, interpolation="nearest")
                ax.set_title(title, pad=2)
            for ax, prediction in zip(cells[2:], item.predictions, strict=False):
                _corner(ax, photo_miou(item, prediction))
            for ax in cells:
                ax.set_axis_off()
        figure.legend(handles=handles, loc="lower center", ncols=legend_columns, frameon=False,
                      handlelength=1.2, columnspacing=1.2)  # fmt: skip
    figure.set_label(
        "photo, truth, and the class of every pixel by variant; in the corner: mIoU x100 on this "
        "photo"
    )
    return figure


def photo_miou(item: Picture, prediction: Prediction) -> float:
    """mIoU, a fraction, of one photo over the classes that its truth or the prediction shows; NaN
    for a photo of ignored pixels alone."""
    count = len(item.class_names)
    rows = metrics.count(prediction.prediction, item.mask, count, item.ignore_index)
    confusion = np.zeros((count, count))
    confusion[rows.true, rows.predicted] = rows.pixels
    totals = np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)])
    return float(metrics.nanmean(metrics.iou_of_totals(totals)))


def _corner(ax: Axes, score: float) -> None:
    """Write a score x100 into the lower right corner of a picture."""
    if not np.isnan(score):
        ax.text(
            0.98, 0.03, f"{100 * score:.0f}", transform=ax.transAxes, ha="right", va="bottom",
            fontsize=6, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


def attention_maps(pictures: Sequence[Picture], largest: float = 0.85) -> Figure:
    """Where the patch under each chosen point looks: a column per point, a row per variant.

    The top row shows the photo, the point and the sliding window that holds the point. Maps are
    averaged over heads, each scaled to its own maximum. "no single map" stands for a missing map.

    Args:
        pictures: from `sclip_lab.results.store.picture_files.load`.
        largest: largest height of a map in inches; many points make maps smaller.

    Raises:
        LabError: if no picture holds points.
    """
    _check(pictures)
    columns = [(p, i) for p in pictures for i in range(len(_points(p)))]
    if not columns:
        raise LabError("these pictures hold no points; evaluate with points to look at attention")
    names = ["photo", *dict.fromkeys(v.label for p in pictures for v in p.predictions)]
    height = min(largest, 6.0 / len(columns))
    widths = [height * p.image.shape[1] / p.image.shape[0] for p, _ in columns]
    folded = [_folded(name) for name in names]
    margin = 0.15 + 0.06 * max(len(line) for name in folded for line in name.split("\n"))
    with rc_context(FONT):
        rows = len(names)
        figure, grid = _grid([height] * rows, widths, [0.0] * rows, left=margin, bottom=0.45)
        for column, (item, index) in enumerate(columns):
            _mark(grid[0, column], item, index)
            by_label = {prediction.label: prediction for prediction in item.predictions}
            for row, name in enumerate(names[1:], start=1):
                _map(grid[row, column], item, by_label.get(name), index)
        for row, name in enumerate(folded):
            grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        _scale(figure, margin)
    figure.set_label(
        "where the patch under the ring looks within its window (the frame), mean over heads; each "
        "map has its own scale"
    )
    return figure


def _grid(
    heights: Sequence[float],
    widths: Sequence[float],
    above: Sequence[float],
    left: float = 0.03,
    bottom: float = 0.03,
) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure with a grid of axes of given sizes, with margins ``left`` and ``bottom`` and room
    ``above`` each row; all in inches.

    The axes are placed by hand: matplotlib's layout engine takes half a minute for hundreds.
    """
    gap = 0.04
    size = (
        left + sum(widths) + gap * len(widths),
        bottom + sum(heights) + sum(above) + gap * len(heights),
    )
    figure = Figure(figsize=size)
    axes = np.empty((len(heights), len(widths)), object)
    y = size[1]
    for row, height in enumerate(heights):
        y -= above[row] + height + gap
        x = left
        for column, width in enumerate(widths):
            box = (x / size[0], y / size[1], width / size[0], height / size[1])
            axes[row, column] = figure.add_axes(box)
            x += width + gap
    return figure, axes


def _scale(figure: Figure, left: float) -> None:
    """Draw a colour bar below the maps."""
    width, height = figure.get_size_inches()
    box = (left / width, 0.3 / height, min(1.6, width - left - 0.1) / width, 0.08 / height)
    shades = ScalarMappable(cmap="inferno")
    bar = figure.colorbar(shades, cax=figure.add_axes(box), orientation="horizontal")
    bar.set_ticks([0, 1], labels=["0", "map's maximum"])
    bar.ax.tick_params(length=0, pad=2)


def _check(pictures: Sequence[Picture]) -> None:
    if not pictures or not any(item.predictions for item in pictures):
        raise LabError("no pictures to draw: the store holds no pictures of these specs")


def _folded(label: str, width: float = 9.0) -> str:
    """A label with its parameters below the name, one a line, wrapped at ``width`` inches."""
    name, bracket, rest = label.partition("(")
    lines = [*name.split(" · "), *(rest.rstrip(")").split(", ") if bracket else [])]
    letters = int(width / LETTER)
    return "\n".join(part for line in lines for part in wrap(line, letters) or [line])


# ---------------------------------------------------------------- predictions


def class_colors(pictures: Sequence[Picture], max_classes: int = len(PALETTE)) -> dict[str, str]:
    """Colours by class, in the order of the legend: background, which is grey, then the classes
    with most pixels in the truth, then those with most pixels in predictions alone."""
    truth, guess = Counter[str](), Counter[str]()
    for item in pictures:
        truth += _pixels(item, item.mask)
        for prediction in item.predictions:
            guess += _pixels(item, prediction.prediction)
    ranked = sorted(truth, key=lambda name: -truth[name])
    ranked += sorted(guess.keys() - truth.keys(), key=lambda name: (-guess[name], name))
    plain = [name for name in ranked if name == "background"]
    colored = [name for name in ranked if name != "background"][:max_classes]
    # Classes without a colour here are drawn in the grey `OTHER`.
    return dict.fromkeys(plain, BACKGROUND) | dict(zip(colored, PALETTE, strict=False))


def _pixels(item: Picture, labels: npt.NDArray[np.uint8]) -> Counter[str]:
    """The number of pixels of each class, without ignored pixels."""
    counts = zip(*np.unique(labels, return_counts=True), strict=True)
    return Counter(
        {
            item.class_names[index]: int(count)
            for index, count in counts
            if index < len(item.class_names) and index != item.ignore_index
        }
    )


def _paint(
    labels: npt.NDArray[np.uint8], item: Picture, colors: Mapping[str, str]
) -> npt.NDArray[np.uint8]:
    names = item.class_names
    table = np.array([to_rgb(colors.get(name, OTHER)) for name in names] + [to_rgb(OTHER)])
    picture = table[np.minimum(labels, len(names))]
    rows, columns = np.indices(labels.shape)
    period = max(2, max(labels.shape) // 60)
    stripes = np.where((rows + columns) // period % 3 == 0, 0.55, 1.0)
    ignored = labels == item.ignore_index
    picture[ignored] = stripes[ignored][:, None]
    return np.round(picture * 255).astype(np.uint8)


def _legend(pictures: Sequence[Picture], colors: Mapping[str, str]) -> list[Patch]:
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    present = {
        name
        for item in pictures
        for labels in (item.mask, *(p.prediction for p in item.predictions))
        for name in _pixels(item, labels)
    }
    if others := len(present - colors.keys()):
        label = f"{others} other class{'es' if others > 1 else ''}"
        handles.append(Patch(color=OTHER, label=label))
    if any((item.mask == item.ignore_index).any() for item in pictures):
        handles.append(Patch(facecolor="white", edgecolor="0.6", hatch="/////", label="ignored"))
    return handles


# ---------------------------------------------------------------- attention


def _points(item: Picture) -> npt.NDArray[np.int32]:
    for prediction in item.predictions:
        if prediction.points is not None:
            return prediction.points
    return np.zeros((0, 2), np.int32)


def _mark(ax: Axes, item: Picture, index: int) -> None:
    _photo(ax, item.image)
    boxes = [p.attention_box for p in item.predictions if p.attention_box is not None]
    if boxes:
        top, left, height, width = boxes[0][index]
        for color, line in (("black", 2.0), ("white", 1.0)):
            corner = (left - 0.5, top - 0.5)
            ax.add_patch(Rectangle(corner, width, height, fill=False, ec=color, lw=line))
    _ring(ax, _points(item)[index])
    _bare(ax, item)


def _photo(ax: Axes, image: npt.NDArray[np.uint8]) -> None:
    """Draw a photo in its own pixels' coordinates, thinned to what a small picture can show."""
    height, width = image.shape[:2]
    step = max(1, min(height, width) // 200)
    ax.imshow(image[::step, ::step], extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _map(ax: Axes, item: Picture, prediction: Prediction | None, index: int) -> None:
    if prediction is None or prediction.attention is None or prediction.attention_box is None:
        ax.text(0.5, 0.5, "no single\nmap", ha="center", va="center", transform=ax.transAxes,
                color="0.4")  # fmt: skip
        _bare(ax, item)
        return
    _photo(ax, (item.image.mean(2, keepdims=True) / 2 + 127.5).repeat(3, 2).astype(np.uint8))
    top, left, height, width = prediction.attention_box[index]
    weights = prediction.attention[index]
    extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    ax.imshow(weights, cmap="inferno", vmin=0, vmax=max(float(np.nanmax(weights)), 1e-30),
              alpha=0.85, interpolation="nearest", extent=extent)  # fmt: skip
    _ring(ax, _points(item)[index])
    _bare(ax, item)


def _ring(ax: Axes, point: npt.NDArray[np.int32]) -> None:
    """Draw a ring at a point, so that the patch under it stays visible."""
    ax.plot(point[1], point[0], "o", ms=6, mfc="none", mec="black", mew=2.4)
    ax.plot(point[1], point[0], "o", ms=6, mfc="none", mec="#56B4E9", mew=1.2)


def _bare(ax: Axes, item: Picture) -> None:
    height, width = item.image.shape[:2]
    ax.set(
        xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[]
    )
    for spine in ax.spines.values():
        spine.set_visible(False)


def labelled(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], palette: np.ndarray
) -> Figure:
    """A photo, and beside it the photo with its labels in colour; the legend has their shares.

    Args:
        image: (height, width, 3) uint8. labels: (height, width) indices into ``names``.
        names: of classes. palette: (at least len(names), 3) uint8, their colours.
    """
    height, width = labels.shape
    handles = [
        Patch(color=tuple(palette[k] / 255), label=f"{name}  {100 * (labels == k).mean():.1f} %")
        for k, name in enumerate(names)
    ]
    with rc_context(FONT):
        size = (7.0, 3.5 * height / width + 0.3 + 0.18 * -(-len(names) // 4))
        figure = Figure(figsize=size, layout="constrained")
        axes: Any = figure.subplots(1, 2)
        axes[0].imshow(image)
        axes[1].imshow((0.35 * image + 0.65 * palette[labels]).astype(np.uint8))
        for ax in axes:
            ax.set_axis_off()
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def attention_over_photo(
    spec: Spec, image: np.ndarray, points: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """Where the patch under each point looks, in all windows that hold the point.

    A pixel's weight is the mean over heads and over the windows that hold both pixel and point.

    Args:
        spec: network, variant and protocol. image: (height, width, 3) uint8.
        points: row, column in pixels of the photo.

    Returns:
        per point (height, width) float32; NaN where no window holds both, or everywhere for a
        variant without a single map.
    """
    from sclip_lab.segmentation.pipeline import encode_photo

    plan, encoded = encode_photo(spec.backbone, image, spec.protocol, spec.attention)
    weights = encoded.state.attention
    height, width = image.shape[:2]
    total, count = np.zeros((2, len(points), height, width))
    if weights is None:
        return list(np.full(total.shape, np.nan, np.float32))
    grid_h, grid_w = plan.grid
    skip = weights.shape[-1] - grid_h * grid_w  # 1 where the class token takes part
    maps = weights[:, :, skip:, skip:].float().mean(1).cpu().numpy()
    starts = product(plan.rows.starts, plan.columns.starts)
    for of_window, (top, left) in zip(maps, starts, strict=True):
        down = _patch_of_pixels(plan.rows, top, height / plan.resized[0], height)
        right = _patch_of_pixels(plan.columns, left, width / plan.resized[1], width)
        rows, columns = (down >= 0) & (down < grid_h), (right >= 0) & (right < grid_w)
        place, patches = np.ix_(rows, columns), np.ix_(down[rows], right[columns])
        for index, (y, x) in enumerate(points):
            if rows[y] and columns[x]:
                of_point = of_window[down[y] * grid_w + right[x]].reshape(grid_h, grid_w)
                total[index][place] += of_point[patches]
                count[index][place] += 1
    with np.errstate(invalid="ignore"):
        return list((total / count).astype(np.float32))


def _patch_of_pixels(
    axis: Axis, start: int, factor: float, size: int
) -> npt.NDArray[np.signedinteger]:
    """Index along one axis of a window's patch under each of a photo's ``size`` pixels; outside of
    the window it is negative or too large.

    Args:
        start: of the window, in resized pixels. factor: pixels of the photo in a resized pixel.
    """
    pixels = (np.arange(size) + 0.5) / factor - (start - axis.before)
    return np.floor(pixels / (axis.seen / axis.cells)).astype(int)
