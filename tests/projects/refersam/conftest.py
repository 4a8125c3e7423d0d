"""A ReferSAM of ViT-Tiny's size with words 32 wide, and weights that give every part a say."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

refersam = pytest.importorskip("refersam")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def make_model(tiny_text):
    """Builds a model; keywords override the constructor's."""
    from refersam.meta_arch import InteractionConfig
    from refersam.modeling.criterion import MaskCriterion
    from refersam.modeling.text import build_expression_encoder
    from tests.projects.refersam.published import ruled_tensor

    def build(source: str = str(tiny_text), frozen: bool = False, ruled: bool = True, **settings):
        torch.manual_seed(0)
        text = build_expression_encoder(source, frozen=frozen, max_tokens=20)
        names = [field.name for field in fields(InteractionConfig)]
        interaction = InteractionConfig(**{k: settings.pop(k) for k in names if k in settings})
        settings = {"sam": "vit_t", "criterion": MaskCriterion(64), **settings}
        model = refersam.ReferSAM(text_encoder=text, interaction=interaction, **settings).eval()
        if ruled:
            rename = {"prompt_head.mask_scaling.bias": "a.bias"}
            with torch.no_grad():
                for name, value in model.named_parameters():
                    made = ruled_tensor(rename.get(name, name), tuple(value.shape))
                    value.copy_(made)
        return model

    return build


@pytest.fixture(scope="session")
def model(make_model):
    """One that no test may change."""
    return make_model()


@pytest.fixture
def scene():
    """Two images of 64x96, and an expression each, the second one shorter."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    ids = torch.tensor([[101, 1996, 2450, 1999, 102], [101, 5210, 102, 0, 0]])
    return images, ids, (ids > 0).long()


@pytest.fixture
def item():
    """A training dict of 64x64 with three expressions: about one object, two, and none."""
    from detectron2.structures import BitMasks, Instances

    objects = Instances((64, 64))
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    for number, (y, x) in enumerate(((4, 4), (30, 8), (40, 40))):
        masks[number, y : y + 16, x : x + 16] = True
    objects.gt_masks = BitMasks(masks)
    objects.gt_classes = torch.tensor([0, 1, 1])
    image = (masks.any(0) * 200 + torch.randint(0, 50, (3, 64, 64))).to(torch.uint8)
    return {
        "file_name": "page.png",
        "image": image,
        "height": 48,
        "width": 80,
        "expressions": ["the red square", "both squares on the right", "a dog"],
        "instances": objects,
    }
