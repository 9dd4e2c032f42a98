"""The way from photos to patch logits: texts, windows, network, readout.

Windows are cut when needed and go through the network a few at a time, so memory does not depend on
how many windows a protocol cuts. A variant that reads all windows of a photo gets the tokens that
enter its first rewritten block from the passes of the other variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.core.heap import trim_heap
from sclip_lab.core.timings import Timings
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput
from sclip_lab.network.scene import Guidance, Placement, Scene
from sclip_lab.network.truth import PatchLabels
from sclip_lab.segmentation import views
from sclip_lab.segmentation.decoder import Readout, steps
from sclip_lab.segmentation.encoded import Encoded, as_trained, encode
from sclip_lab.segmentation.photos import prepare
from sclip_lab.segmentation.prompts import embed_vocabulary
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.windows import Plan

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide

# Bytes of activations at once: an upper bound on a CPU, and a share of the free memory.
CPU_BYTES = 512 << 20
SHARE_OF_FREE = 0.25
# Memory is freed before refinements if a photo's logits, at its own size, have more bytes.
LARGE_LOGITS = 64 << 20


def make_readout(
    backbone: Backbone,
    vocabulary: Vocabulary,
    protocol: Protocol,
    cache: Path | None = None,
    progress: bool = False,
    texts: dict[Any, Tensor] | None = None,
) -> Readout:
    """A protocol's readout of a vocabulary, with all its texts embedded.

    Args:
        cache, progress: as in `embed_vocabulary`.
        texts: embeddings of other readouts of this network; new ones are added. Readouts with the
            same texts share their logits.

    Raises:
        LabError: a readout that reads texts, of a network without text tower, or a protocol with
            another vocabulary of its own.
    """
    other = protocol.vocabulary
    if other is not None and Vocabulary.named(other).key != vocabulary.key:
        raise LabError(
            f"protocol.vocabulary '{other}' replaces a data set's class names, and not those of "
            "the call; give the call this vocabulary, or set protocol.vocabulary=null"
        )
    texts = {} if texts is None else texts
    if not backbone.has_text and steps(protocol).reads_text:
        raise LabError(f"backbone {backbone.name} has no text tower: it cannot read class names")

    def embed(names: Vocabulary | None, prompts: str | tuple[str, ...] | None) -> Tensor | None:
        if names is None or prompts is None or not backbone.has_text:
            return None
        key = names.key, prompts, protocol.truncate
        if key not in texts:
            text = embed_vocabulary(backbone, names, prompts, cache, progress, protocol.truncate)
            texts[key] = text.to(backbone.device)
        return texts[key]

    return Readout(
        protocol,
        embed(vocabulary, protocol.templates),
        torch.tensor(vocabulary.query_classes, device=backbone.device),
        embed(protocol.auxiliary_vocabulary(), protocol.templates),
        embed(vocabulary, protocol.second_templates),
    )


class Windows:
    """The windows of some photos, cut and normalised on the network's device when needed.

    Args:
        photos: each one's window geometry, and (3, *plan.resized) uint8. All windows have one size.
        changes: the protocol's views of each window.
        guide: a second network; it runs when a variant reads it.
        most: how many windows go through the network at once; a chunk may have a few more.
        counts: per photo () -> (windows, grid_h, grid_w, classes) pixels of each class, for
            variants that read ground truth; empty if there is none.

    Attributes:
        parts: the windows of each photo, photo by photo and view by view.
        chunks: the same windows in parts that go through the network at once.

    Raises:
        LabError: views of windows together with a second network that sees whole photos.
    """

    def __init__(
        self,
        photos: Sequence[tuple[Plan, Tensor]],
        changes: views.Views | None,
        backbone: Backbone,
        guide: Guide | None = None,
        most: int = 1 << 30,
        counts: Sequence[Callable[[], Tensor]] = (),
    ) -> None:
        self.plans = [plan for plan, _ in photos]
        pixels = [pixels.to(backbone.device, non_blocking=True) for _, pixels in photos]
        self.images = [backbone.normalise(image[None])[0] for image in pixels]
        self.changes = changes
        self.backbone = backbone
        self.guide = guide
        self.counts = counts
        count = max(1, len(changes or ()))
        if guide is not None and guide.scope == "photo" and count > 1:
            raise LabError(
                "guidance.scope photo knows no views of windows; set guidance.scope=windows"
            )
        lengths = [count * plan.num_windows for plan in self.plans]
        self.parts = [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]
        self.chunks = _chunks(sum(lengths), most)
        self._guidance: dict[tuple[int, int], Guidance] = {}
        self._whole: dict[int, Tensor] = {}

    @property
    def every(self) -> slice:
        return slice(0, self.parts[-1].stop)

    def first_view(self, photo: int) -> slice:
        """The windows of one photo in its first view."""
        start = self.parts[photo].start
        return slice(start, start + self.plans[photo].num_windows)

    def cut(self, windows: slice) -> Tensor:
        """(windows, 3, height, width), normalised."""
        pieces = []
        for photo, name, some in self._pieces(windows):
            images = self.plans[photo].cut(self.images[photo], windows=some)
            if self.changes:
                images = views.see_one(images, self.changes[name], name)
            pieces.append(images)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def scene(self, windows: slice) -> Scene:
        """Where some windows lie in their photos, with guidance and ground truth for them."""
        placements, start, complete = [], 0, True
        for photo, _, some in self._pieces(windows):
            plan, count = self.plans[photo], some.stop - some.start
            place = slice(start, start + count)
            start, complete = start + count, complete and count == plan.num_windows
            patch = self.backbone.patch_size
            placements.append(Placement(place, plan.corners[some], plan.resized, patch))
        guidance = None if self.guide is None else self._guided(windows)
        labels = PatchLabels(partial(self._counts, windows)) if self.counts else None
        return Scene(tuple(placements) if complete else None, guidance, labels)

    def _counts(self, windows: slice) -> Tensor:
        """Pixels of each class in the patches of some windows."""
        pieces = [self.counts[photo]()[some] for photo, _, some in self._pieces(windows)]
        classes = max(piece.shape[-1] for piece in pieces)
        return torch.cat([F.pad(piece, (0, classes - piece.shape[-1])) for piece in pieces])

    def _pieces(self, windows: slice) -> Iterator[tuple[int, str, slice]]:
        """Split a part of all windows by photo and view: (photo, view, windows of that view)."""
        start = 0
        for photo, plan in enumerate(self.plans):
            for name in self.changes or [""]:
                first = max(windows.start, start) - start
                last = min(windows.stop, start + plan.num_windows) - start
                if first < last:
                    yield photo, name, slice(first, last)
                start += plan.num_windows

    def _guided(self, windows: slice) -> Guidance:
        """Guidance of a chunk, cached; guidance of all windows is joined from the chunks."""
        assert self.guide is not None
        look = partial(self.guide.of_windows, backbone=self.backbone)
        key = windows.start, windows.stop
        if key not in self._guidance:
            self._guidance[key] = Guidance(partial(self._features, windows), look)
        return self._guidance[key]

    def _features(self, windows: slice) -> Tensor:
        """The second network's features, (windows, channels, grid_h, grid_w)."""
        assert self.guide is not None
        if windows == self.every and len(self.chunks) > 1:
            joined = torch.cat([self._guided(chunk).features for chunk in self.chunks])
            for chunk in self.chunks:  # no longer needed
                self._guidance.pop((chunk.start, chunk.stop), None)
            return joined
        if self.guide.scope == "windows":
            return self.guide.of_windows(self.cut(windows), self.backbone)
        features = []
        for photo, _, some in self._pieces(windows):
            plan, image = self.plans[photo], self.images[photo]
            if photo not in self._whole:
                self._whole[photo] = self.guide.of_windows(image[None], self.backbone)
            place = Placement(some, plan.corners[some], plan.resized, self.backbone.patch_size)
            size = plan.rows.seen, plan.columns.seen
            whole = self._whole[photo]
            features.append(self.guide.of_photo(image, place, size, self.backbone, whole))
        return torch.cat(features)


def _chunks(total: int, most: int) -> list[slice]:
    """Split windows into parts of about equal size, of two windows or more if there are two."""
    # Matrix products of a single window may be rounded differently.
    count = max(1, min(-(-total // most), total // 2))
    return [slice(i * total // count, (i + 1) * total // count) for i in range(count)]


class Encoder:
    """Runs variants on chunks of windows, with a rule of position embeddings (None: the
    backbone's). ``timings`` takes the seconds of each branch."""

    def __init__(
        self, backbone: Backbone, rule: str | None = None, timings: Timings | None = None
    ) -> None:
        self.backbone = backbone
        self.rule = rule
        self.timings = timings or Timings()

    def begin(self, windows: Windows, level: int) -> None:
        """Prepare for other windows; no variant rewrites a block before ``level``."""

    def known(self, chunk: slice) -> tuple[int, Tensor] | None:
        """A block's index and its input as trained, for a chunk; None if they are not stored."""
        return None

    def encode(
        self, chunk: slice, images: Tensor, variants: Sequence[Variant], scene: Scene
    ) -> Iterator[tuple[int, Encoded]]:
        """Run variants on one chunk, see `sclip_lab.segmentation.encoded.encode`."""
        trunk = self.known(chunk)
        rule, timings = self.rule, self.timings
        return encode(self.backbone, images, variants, rule, timings, trunk, scene)

    def entering(
        self, chunk: slice, images: Tensor, level: int, history: Sequence[BlockInput]
    ) -> Tensor:
        """(windows, tokens, width): the input of block ``level`` of the network as trained.

        ``history`` has the inputs as trained of the first blocks, of as many as are computed.
        """
        blocks = self.backbone.blocks_on(self.backbone.grid(*images.shape[-2:]))
        with self.timings.measure("trunk"):
            if history:
                entered = history[: level + 1][-1]
            else:
                first, tokens = self.known(chunk) or (0, self.backbone.embed(images, self.rule))
                entered = BlockInput(blocks[first], tokens)
            following = blocks[entered.block.index + 1 : level + 1]
            return as_trained(entered, following)[-1].tokens


def run(
    encoder: Encoder,
    windows: Windows,
    variants: Sequence[Variant],
    failed: Callable[[int, Exception], None] | None = None,
) -> Iterator[tuple[int, slice, Encoded]]:
    """Run all variants on all windows, chunk by chunk.

    Args:
        failed: is called with the index of a variant that raised, and the exception; other variants
            go on. None: the exception is raised.

    Yields:
        (index into ``variants``, which windows, what the variant made of them). A variant that
        reads all windows of a photo together comes once, with all of them.
    """
    depth = encoder.backbone.depth
    first = [variant.first(depth) for variant in variants]
    several = len(windows.chunks) > 1
    # Where one chunk has all windows, a variant that reads them all is like any other.
    joint = [i for i, variant in enumerate(variants) if several and "photo" in variant.uses]
    apart = [i for i in range(len(variants)) if i not in joint]
    level = min((first[i] for i in joint), default=0)
    tokens: list[Tensor] = []

    def isolated(
        chosen: list[int], call: Callable[[list[Variant]], Iterator[tuple[int, Encoded]]]
    ) -> Iterator[tuple[int, Encoded]]:
        """Run variants together; after an error, run the remaining variants one by one."""
        waiting = list(chosen)
        try:
            for index, encoded in call([variants[i] for i in chosen]):
                waiting.remove(chosen[index])
                yield chosen[index], encoded
                del encoded  # or it stays in memory while the next variant runs
        except Exception as error:
            if failed is None:
                raise
            if len(chosen) > 1:
                for index in waiting:
                    yield from isolated([index], call)
                return
            if chosen[0] in apart:
                apart.remove(chosen[0])
            failed(chosen[0], error)

    encoder.begin(windows, min(first))
    for chunk in windows.chunks:
        images, scene = windows.cut(chunk), windows.scene(chunk)
        history: tuple[BlockInput, ...] = ()
        if apart:
            call = partial(encoder.encode, chunk, images, scene=scene)
            for index, encoded in isolated(list(apart), call):
                if variants[index].entry_key is None and first[index] >= len(history):
                    history = encoded.history[: first[index] + 1]
                yield index, chunk, encoded
                del encoded
        if joint:
            tokens.append(encoder.entering(chunk, images, level, history))
        del history  # or it stays in memory while the next chunk is encoded
    if joint:
        images, scene = windows.cut(windows.every), windows.scene(windows.every)
        trunk = level, torch.cat(tokens)
        shared = encoder.rule, encoder.timings, trunk, scene

        def together(chosen: list[Variant]) -> Iterator[tuple[int, Encoded]]:
            return encode(encoder.backbone, images, chosen, *shared)

        for index, encoded in isolated(joint, together):
            yield index, windows.every, encoded


class Collected:
    """Collects what variants make of each chunk, until the last chunk of a variant completes it."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self._chunks: dict[int, list[Encoded]] = {}

    def add(
        self, index: int, chunk: slice, encoded: Encoded, history: bool = True
    ) -> Encoded | None:
        """Return all windows of a variant if this chunk is the last, else None.

        Of earlier chunks only tokens are stored: behind the network, and with ``history`` also
        before each block.
        """
        every = self.windows.every
        if chunk == every:
            return encoded
        self._chunks.setdefault(index, []).append(encoded.tokens_only(history))
        if chunk.stop < every.stop:
            return None
        images, scene = self.windows.cut(every), self.windows.scene(every)
        return Encoded.joined(self._chunks.pop(index), images, scene)


def encode_photo(
    backbone: Backbone, image: np.ndarray, protocol: Protocol, attention: Variant
) -> tuple[Plan, Encoded]:
    """Send one photo, (height, width, 3) uint8 RGB, through the network: all its windows at once,
    without further views. Returns the window geometry and the encoded windows."""
    plan, pixels = prepare(image, protocol, backbone)
    windows = Windows([(plan, pixels)], None, backbone)
    encoder = Encoder(backbone, protocol.position_embedding)
    [(_, _, encoded)] = run(encoder, windows, [attention])
    return plan, encoded


def label(
    readout: Readout, windows: Windows, photo: int, logits: Tensor, encoded: Encoded | None = None
) -> Tensor:
    """Label one photo: (height, width) class ids, see `Readout.predict`.

    ``logits`` are its patch logits of all views, (windows, grid_h, grid_w, queries). ``encoded``
    are its windows in the first view, needed only if `Steps.reads_windows`.
    """
    averaged = views.average(logits, readout.protocol.views)
    plan = windows.plans[photo].on_grid((logits.shape[1], logits.shape[2]))
    size = 4 * logits.shape[-1] * math.prod(plan.target)
    if readout.steps.refinements and logits.device.type == "cpu" and size > LARGE_LOGITS:
        # Refinements at the photo's size take gigabytes themselves.
        for block in windows.backbone.blocks:
            block.forget_copies()
        trim_heap()
    image, backbone = windows.images[photo], windows.backbone
    return readout.predict(plan, plan.lay_out(averaged), image, encoded, backbone)


def at_once(backbone: Backbone, plan: Plan, variants: int, guide: Guide | None = None) -> int:
    """How many windows go through the network at once: as many as `memory` holds, 2 or more.

    ``variants`` is the number of variants that run on them.
    """
    block = backbone.blocks[0]
    size = plan.rows.seen, plan.columns.seen
    tokens = 1 + math.prod(backbone.grid(*size))
    maps, guided = tokens, 0
    if guide is not None:  # patches may be brought to its grid
        patches = math.prod(guide.grid(*size))
        maps = max(tokens, patches)
        # It runs while the first network's activations are in memory. It has a stream before and
        # behind LN, q, k, v, attention's output, and twice the hidden layer, four times as wide.
        guided = 14 * patches * guide.network.blocks[0].width
    # Each block's input, q, k, v and attention map; then what each variant adds.
    shared = backbone.depth * (4 * tokens * block.width + block.num_heads * tokens**2)
    of_variants = variants * (tokens * block.width + block.num_heads * maps**2)
    return max(2, int(memory(backbone.device) // (4 * (shared + of_variants + guided))))


def memory(device: torch.device) -> float:
    """Bytes that activations may take: a share of free memory; on a CPU at most `CPU_BYTES`."""
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):  # only Linux has this file
        return CPU_BYTES
    return min(CPU_BYTES, SHARE_OF_FREE * free)
