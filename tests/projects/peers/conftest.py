"""Fixtures: small random networks in folders of transformers, and a page of the picture book."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hipie_peers")
pytest.importorskip("segment_anything")

from hipie import Segmenter


@pytest.fixture(scope="session")
def page() -> np.ndarray:
    """Page of the picture book, [H, W, 3] uint8 RGB with unequal sides."""
    from hipie.data.picturebook import PictureBook

    return np.ascontiguousarray(PictureBook(0, "val").page(1).image[:150, :200])


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return the folder of a random network that transformers itself has written."""
    from hipie_peers.random_networks import build_random

    root = tmp_path_factory.mktemp("networks")

    def save_once(architecture: str) -> Path:
        folder = root / architecture
        if not folder.exists():
            network, processor = build_random(architecture)
            network.save_pretrained(folder)
            processor.save_pretrained(folder)
        return folder

    return save_once


@pytest.fixture(scope="session")
def build(folders):
    """Build the segmenter of a random configuration with the network of a folder, once."""
    built: dict[tuple, Segmenter] = {}

    def build_once(config: str, architecture: str, *options: object) -> Segmenter:
        key = (config, *options)
        if key not in built:
            names = [f"MODEL.PEERS.{name}" for name in options[::2]]
            pairs = [entry for pair in zip(names, options[1::2]) for entry in pair]
            settings = ["MODEL.PEERS.SOURCE", str(folders(architecture)), *pairs]
            built[key] = Segmenter.from_config(
                f"hipie_peers/{config}_random.yaml", device="cpu", opts=settings
            )
        return built[key]

    return build_once
