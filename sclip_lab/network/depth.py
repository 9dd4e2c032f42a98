"""Layer indices that mean the same block in networks of different depth."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sclip_lab.core.errors import LabError, about
from sclip_lab.core.values import shown

Layer = int | float | str


def resolve(layer: Layer, depth: int) -> int:
    """Return the 0-based block index of one layer.

    Args:
        layer: an integer (0 .. depth - 1, or -1 for the last block, -2 ...), or a fraction of
            depth in (0, 1]: 0.75, or "9/12" as text, names the block after which that share of
            the network has run, which is index 8 of 12 blocks and index 17 of ViT-L's 24. The
            share is rounded to whole blocks. Below 1 it never gives the last of several blocks.
        depth: number of blocks.

    Raises:
        LabError: out of range or not a number.
    """
    try:
        layer = getattr(layer, "item", lambda: layer)()  # numpy's and torch's numbers
        number = Fraction("true" if isinstance(layer, bool) else layer)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise LabError(
            f"layer {layer!r} is neither an index nor a fraction such as 0.75 or '9/12'"
        ) from None
    if isinstance(layer, int):
        if -depth <= layer < depth:
            return layer % depth
        raise LabError(f"layer {layer} is out of range: {-depth} .. {depth - 1} for {depth} blocks")
    if not 0 < number <= 1:
        raise LabError(f"layer {layer} is out of range: a fraction of depth lies in (0, 1]")
    ends = max(round(number * depth), 1)
    if number < 1:
        # "11/12" of three blocks must not become the last block.
        ends = min(ends, max(depth - 1, 1))
    return ends - 1


def resolve_all(layers: Layer | Sequence[Layer], depth: int) -> list[int]:
    """Return sorted 0-based block indices of a layer, a list of layers, ``"all"`` or ``"last n"``.

    ``last`` takes a number of blocks, or a fraction of depth: "last 6", "last 6/12".

    Raises:
        LabError: nothing named, or out of range.
    """
    if layers == "all":
        return list(range(depth))
    if isinstance(layers, str) and layers.startswith("last"):
        last = layers.removeprefix("last").strip()
        count = int(last) if last.isdigit() else resolve(last, depth) + 1
        if not 1 <= count <= depth:
            raise LabError(f"layers '{layers}' is out of range: 1 .. {depth} for {depth} blocks")
        return list(range(depth - count, depth))
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        layers = [layers]
    if not layers:
        raise LabError("layers is empty; name at least one block, as in [-1]")
    with about(f"layers {shown(list(layers))}"):
        return sorted({resolve(layer, depth) for layer in layers})
