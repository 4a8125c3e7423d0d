"""Fixtures: small networks of random weights, and inputs."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Instances

pytest.importorskip("hipie_trained_clip")
pytest.importorskip("open_clip")

from hipie.modeling.open_vocabulary.clip_loading import load_clip


@lru_cache(maxsize=2)
def _loaded(model: str) -> Any:
    return load_clip(model)


def fresh_clip(model: str) -> Any:
    """A small CLIP that a test may change, and its tokenizer."""
    clip, tokenizer = _loaded(model)
    return copy.deepcopy(clip), tokenizer


@pytest.fixture
def build():
    """Build an architecture on a small CLIP: `build("CRIS", **options)`."""
    from hipie.modeling.open_vocabulary.clip import Clip
    from hipie_trained_clip import CRIS, ETRIS, ZegCLIP
    from hipie_trained_clip.modeling.tuned_image_encoder import TuningConfig
    from hipie_trained_clip.referring import DecoderConfig

    def build(name: str, clip: str = "", **options: Any) -> Any:
        torch.manual_seed(0)
        networks, tokenizer = fresh_clip(
            clip or ("random:tiny-resnet" if name == "CRIS" else "random:tiny")
        )
        if name == "ZegCLIP":
            tuning = TuningConfig(
                **{
                    "num_prompts": 4,
                    "prompt_blocks": 2,
                    "drop_path": 0.0,
                    **options.pop("tuning", {}),
                }
            )
            decoder = {"layers": 2, "heads": 4, "dim_feedforward": 64, "dropout": 0.0}
            return ZegCLIP(
                clip=Clip(networks, tokenizer), tuning=tuning, decoder=decoder, **options
            ).eval()
        sizes = DecoderConfig(32, 1, 2, 32, 0.0)
        if name == "ETRIS":
            options = {"bridge_channels": 16, "bridge_heads": 2, **options}
        kind = {"CRIS": CRIS, "ETRIS": ETRIS}[name]
        return kind(clip=networks, tokenizer=tokenizer, decoder=sizes, **options).eval()

    return build


def referring_item(seed: int = 0) -> dict[str, Any]:
    """An image with two expressions and their targets."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 4:30, 4:30] = masks[1, 30:60, 30:60] = True
    instances = Instances((64, 64))
    instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.arange(2)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    noise = torch.randint(0, 50, (3, 64, 64), generator=torch.Generator().manual_seed(seed))
    colours = torch.tensor([[200, 20, 20], [20, 20, 200]])
    image = sum(mask * colour[:, None, None] for mask, colour in zip(masks, colours, strict=True))
    return {
        "image": (image + noise).to(torch.uint8),
        "file_name": "page.png",
        "expressions": ["the red square at the top", "the blue square"],
        "instances": instances,
    }


def semantic_item(seed: int = 0) -> dict[str, Any]:
    """The same image with a vocabulary; its first rows are not labelled."""
    from hipie.vocabularies import Vocabulary

    item = referring_item(seed)
    del item["expressions"]
    item["vocabulary"] = Vocabulary.from_names(things=["dog", "unicorn"], stuff=["grass"])
    item["ignored"] = torch.zeros(64, 64, dtype=torch.uint8)
    item["ignored"][:4] = 2
    return item


@pytest.fixture(scope="session")
def configs() -> Path:
    return Path(__file__).parents[3] / "projects/TrainedCLIP/configs"
