"""Small photos, masks and downloads, and the command that converts and verifies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sclip_lab as lab
from sclip_lab.cli.data import run
from sclip_lab.cli.main import parser_of
from sclip_lab.data.folder import Folder

SHARED = Path(__file__).parents[3] / "shared/data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real photos and masks of ../shared/data are not here"
)
SIZE = (6, 8)  # height, width


def cli(*words: str) -> int:
    return run(parser_of("data").parse_args(list(words)))


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(values).save(path)


def grid(ids: list[int], rest: int) -> np.ndarray:
    """A mask whose first pixels are ``ids`` and whose others are ``rest``."""
    values = np.full(SIZE[0] * SIZE[1], rest)
    values[: len(ids)] = ids
    return values.reshape(SIZE)


def png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def first_ids(dataset: Folder, count: int) -> list[int]:
    return dataset[0].mask.ravel()[:count].tolist()


def load(name: str) -> Folder:
    dataset = lab.load_dataset(name)
    assert isinstance(dataset, Folder)
    return dataset


def coco_download(source: Path, maps: str = "stuffthingmaps/val2017") -> None:
    photo(source / "val2017/000000000001.jpg")
    # raw ids are category id - 1: person, toothbrush, banner (stuff), wood (stuff), unlabelled
    png(source / maps / "000000000001.png", grid([0, 89, 91, 181, 255], 12))
