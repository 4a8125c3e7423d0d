"""Fixtures: a small GRSer with a four-stage Swin and a text encoder of width 32, and groups."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

grser = pytest.importorskip("grser")

SIDE = 64


def _pop_fields(config_class: type, arguments: dict) -> dict:
    """Remove and return the arguments that are fields of a dataclass."""
    names = [field.name for field in fields(config_class) if field.name in arguments]
    return {name: arguments.pop(name) for name in names}


@pytest.fixture(scope="session")
def make_model(tiny_text):
    """Build a model with groups of three images.

    Keywords are fields of `HeatmapConfig`, `LossConfig` and `InferenceConfig`, arguments of
    `GRSer`, and `anti_prefix`.
    """
    from grser.modeling.criterion import GroupCriterion, LossConfig
    from grser.modeling.lavt import LAVT, LanguageAwareEncoder
    from grser.modeling.negative_rejection import NegativeRejectionHead
    from grser.modeling.swin import SwinBackbone
    from grser.modeling.text import PREFIX, ExpressionEncoder
    from grser.modeling.triphasic_head import HeatmapConfig, TriphasicHead
    from grser.postprocessing import InferenceConfig

    def build(feature_level: int = 3, checkpointed_parts: tuple = (), **arguments):
        torch.manual_seed(0)
        prefix = arguments.pop("anti_prefix", PREFIX)
        text = ExpressionEncoder.build(
            str(tiny_text), frozen=False, max_tokens=20, anti_prefix=prefix
        )
        lavt = LAVT(LanguageAwareEncoder(SwinBackbone("swin_nano"), text.width), 16)
        heatmaps = HeatmapConfig(**{"group_size": 3, **_pop_fields(HeatmapConfig, arguments)})
        triphasic_head = rejection_head = None
        if heatmaps.kind != "none":
            width = lavt.encoder.widths[feature_level]
            triphasic_head = TriphasicHead(width, text.width, heatmaps)
        losses = LossConfig(**_pop_fields(LossConfig, arguments))
        if triphasic_head is not None and losses.triplet_weight:
            rejection_head = NegativeRejectionHead(triphasic_head.channels, text.width, 16)
        criterion = GroupCriterion(losses)
        model = grser.GRSer(
            text_encoder=text,
            lavt=lavt,
            triphasic_head=triphasic_head,
            rejection_head=rejection_head,
            criterion=criterion,
            inference_config=InferenceConfig(**arguments),
            feature_level=feature_level,
            checkpointed_parts=checkpointed_parts,
        )
        return model.eval()

    return build


@pytest.fixture(scope="session")
def model(make_model):
    """A shared model that tests must not change."""
    return make_model()


def training_image(index: int, positive: bool, side: int = SIDE) -> dict:
    """Training dict of noise; a positive image has a bright square, its target."""
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 120, (3, side, side), generator=generator).to(torch.uint8)
    target = torch.zeros(side, side, dtype=torch.uint8)
    if positive:
        target[8 : 8 + side // 3, 4 * index + 4 : 4 * index + 4 + side // 3] = 1
        image[:, target > 0] += 120
    return {
        "file_name": f"image{index}.png",
        "image": image,
        "target": target,
        "height": 48,
        "width": 80,
    }


@pytest.fixture
def make_group():
    """Build a group of positive and negative images."""

    def build(*positive: bool, expression: str = "the bright square") -> dict:
        images = [training_image(index, shown) for index, shown in enumerate(positive)]
        return {"images": images, "expression": expression, "height": 48, "width": 80}

    return build
