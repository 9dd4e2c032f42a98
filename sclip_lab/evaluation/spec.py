"""One cell of a table: variant, backbone, protocol and data set, identified by their content."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import target_modules
from sclip_lab.core.identity import digest, of_code
from sclip_lab.data.base import Dataset, check_dataset
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import MISSING
from sclip_lab.segmentation.decoder import steps
from sclip_lab.segmentation.protocol import Protocol

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide


ORACLE = "oracle"  # what the label of a cell that read ground truth begins with


@dataclass(frozen=True)
class Spec:
    """What is evaluated, and the digest of everything that can change its number.

    Attributes:
        attention: how blocks compute attention.
        backbone: with which weights, in which precision.
        protocol: from photo to prediction.
        dataset: on which photos.
        label: what a table calls the variant; if empty, the variant's name. It begins with `ORACLE`
            where the variant reads ground truth. Not part of the key.
        guidance: a second network; dropped where neither variant nor protocol looks at one.

    Raises:
        LabError: a variant that reads ground truth under a protocol with several views, a layer
            out of range for this backbone, a readout or refinement that does not exist or fit, a
            vocabulary of another number of classes, or no guidance where the variant or the
            protocol looks at it.
    """

    attention: Variant
    backbone: Backbone
    protocol: Protocol
    dataset: Dataset
    label: str = field(default="", compare=False)
    guidance: Guide | None = None

    def __post_init__(self) -> None:
        check_dataset(self.dataset)
        self.attention.layers(self.backbone.depth)
        needs = "guidance" in self.attention.uses | steps(self.protocol).uses
        if needs and self.guidance is None:
            raise LabError(f"{self.attention.name} with protocol {self.protocol.name} {MISSING}")
        if not needs:
            object.__setattr__(self, "guidance", None)
        if not self.backbone.has_text:
            self._need_no_text()
        label = self.label or self.attention.name
        if self.oracle and not label.startswith(ORACLE):
            label = f"{ORACLE} {label}"
        object.__setattr__(self, "label", label)
        if self.oracle and len(self.protocol.views or ()) > 1:
            raise LabError(
                f"{self.attention.name} reads ground truth, which is not known of the changed "
                f"views of protocol {self.protocol.name}; set protocol.views=null"
            )
        expected = self.dataset.vocabulary.num_classes
        if self.vocabulary.num_classes != expected:
            raise LabError(
                f"protocol.vocabulary '{self.vocabulary.name}' has {self.vocabulary.num_classes} "
                f"classes, but data set '{self.dataset.name}' has {expected}"
            )
        if self.protocol.background >= expected:
            raise LabError(
                f"protocol.background {self.protocol.background} is none of the {expected} classes "
                f"of data set '{self.dataset.name}'"
            )

    def _need_no_text(self) -> None:
        reader = None
        if "text" in self.attention.uses:
            reader = f"attention {self.attention.name}"
        elif steps(self.protocol).reads_text or self.protocol.auxiliary is not None:
            reader = f"protocol {self.protocol.name}"
        if reader:
            raise LabError(
                f"backbone {self.backbone.name} has no text tower, and {reader} reads texts; a "
                "readout that learns classes from the masks of other photos does not, such as "
                "readout=prototypes"
            )

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def oracle(self) -> bool:
        """Whether the variant reads ground truth, so that its number is no method's score."""
        return "labels" in self.attention.uses

    @property
    def shown_names(self) -> dict[str, str]:
        """Names of the cell's parts in tables; ``attention`` is its label."""
        return {
            "attention": self.label,
            "backbone": self.backbone.name,
            "dataset": self.dataset.name,
            "protocol": self.protocol.name,
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The protocol's vocabulary, or the data set's own."""
        name = self.protocol.vocabulary
        return self.dataset.vocabulary if name is None else Vocabulary.named(name)

    @cached_property
    def key(self) -> str:
        """sha256 hex digest of `identity`. Names do not count."""
        return digest(self.identity)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of `key`. spec.json holds it, and readers check it against the key."""
        whole = getattr(self.dataset, "whole", self.dataset)  # for a part: the data set it is from
        modules = [*self.attention.modules, type(whole).__module__]
        protocol, threshold = self.protocol, self.protocol.prob_threshold
        parts = [protocol.readout, protocol.refinement, protocol.views]
        for part in [*parts, threshold if isinstance(threshold, Mapping) else None]:
            modules += target_modules(part)
        auxiliary = protocol.auxiliary_vocabulary()
        truth = self.dataset.key, self.dataset.ignore_index
        if not isinstance(truth[0], str) or not truth[0]:
            raise LabError(
                f"data set '{self.dataset.name}': key is {truth[0]!r}; give a text that changes "
                "with photos, masks and their order"
            )
        labels = {"labels": digest(truth)} if self.oracle else {}
        return {
            "attention": self.attention.edit_key,
            # "last 1", [-1] and [11] are one choice on twelve blocks.
            "layers": self.attention.layers(self.backbone.depth),
            "backbone": self.backbone.key,
            **({} if self.guidance is None else {"guidance": self.guidance.key}),
            **labels,
            "device": self.backbone.device.type,
            "protocol": self.protocol.key,
            "vocabulary": self.vocabulary.key,
            "auxiliary": None if auxiliary is None else auxiliary.key,
            "dataset": self.dataset.key,
            "ignore_index": self.dataset.ignore_index,
            "code": of_code(modules),
            # Another release's kernels may round otherwise; its local build (+cpu, +cu126) is not
            # told apart, nor is the processor: see docs/identity.md.
            "torch": torch.__version__.partition("+")[0],
        }

    def record(self) -> dict[str, Any]:
        """Content of spec.json: names, configuration, class names, images, provenance."""
        networks: dict[str, Any] = {"backbone": self.backbone}
        if self.guidance is not None:
            networks["guidance"] = self.guidance
        return {
            "key": self.key,
            "identity": self.identity,
            "label": self.label,
            "names": {**self.shown_names, "attention": self.attention.name},
            "config": {
                "attention": dict(self.attention.config),
                **{n: {**part.description, "digest": part.key} for n, part in networks.items()},
                "protocol": self.protocol.config,
                "dataset": {
                    "name": self.dataset.name,
                    "digest": self.dataset.key,
                    "split": getattr(self.dataset, "split", ""),
                    "selection": getattr(self.dataset, "selection", ""),
                    "ignore_index": self.dataset.ignore_index,
                    "vocabulary": self.vocabulary.name,
                    "vocabulary_digest": self.vocabulary.key,
                },
            },
            "class_names": self.vocabulary.names,
            "images": list(self.dataset.names),
            "created": datetime.datetime.now(datetime.UTC).isoformat(),
            "provenance": provenance(),
        }


@cache
def provenance() -> dict[str, str]:
    """Code revision, library versions and processor of this run."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = "unknown"
    versions = {"revision": revision, "python": platform.python_version()}
    for package in ("sclip-lab", "torch", "open_clip_torch", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    versions["processor"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        versions["gpu"] = torch.cuda.get_device_name()
    return versions
