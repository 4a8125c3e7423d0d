"""Fixtures: a small ReferSAM with generated weights, tensors and a training dict."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

refersam = pytest.importorskip("refersam")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def make_model(tiny_text):
    """Build a model; keywords are fields of `InteractionConfig` or arguments of `ReferSAM`."""
    from refersam.meta_arch import InteractionConfig
    from refersam.modeling.criterion import MaskCriterion
    from refersam.modeling.text import build_expression_encoder
    from tests.projects.refersam.published import tensor_from_name

    def build(
        source: str = str(tiny_text),
        frozen: bool = False,
        generated_weights: bool = True,
        **settings,
    ):
        torch.manual_seed(0)
        text = build_expression_encoder(source, frozen=frozen, max_tokens=20)
        names = [field.name for field in fields(InteractionConfig)]
        interaction = InteractionConfig(**{k: settings.pop(k) for k in names if k in settings})
        settings = {"sam": "vit_t", "criterion": MaskCriterion(64), **settings}
        model = refersam.ReferSAM(text_encoder=text, interaction=interaction, **settings).eval()
        if generated_weights:
            rename = {"prompt_head.mask_scaling.bias": "a.bias"}
            with torch.no_grad():
                for name, value in model.named_parameters():
                    generated = tensor_from_name(rename.get(name, name), tuple(value.shape))
                    value.copy_(generated)
        return model

    return build


@pytest.fixture(scope="session")
def model(make_model):
    """Shared model that tests must not change."""
    return make_model()


@pytest.fixture
def scene():
    """Two images of 64x96 with an expression each, the second one shorter."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    ids = torch.tensor([[101, 1996, 2450, 1999, 102], [101, 5210, 102, 0, 0]])
    return images, ids, (ids > 0).long()


@pytest.fixture
def item():
    """Training dict of 64x64 with three expressions: about one object, two, and none."""
    from detectron2.structures import BitMasks, Instances

    objects = Instances((64, 64))
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    for index, (y, x) in enumerate(((4, 4), (30, 8), (40, 40))):
        masks[index, y : y + 16, x : x + 16] = True
    objects.gt_masks = BitMasks(masks)
    objects.gt_classes = torch.tensor([0, 1, 1])
    image = (masks.any(0) * 200 + torch.randint(0, 50, (3, 64, 64))).to(torch.uint8)
    return {
        "file_name": "image.png",
        "image": image,
        "height": 48,
        "width": 80,
        "expressions": ["the red square", "both squares on the right", "a dog"],
        "instances": objects,
    }
