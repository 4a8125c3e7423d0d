"""A GRSer on a Swin of four small stages with words 32 wide, and a group of images."""

from __future__ import annotations

import pytest
import torch

grser = pytest.importorskip("grser")

SIDE = 64


@pytest.fixture(scope="session")
def make_model(tiny_text):
    """Builds a model of three images a group.

    Keywords are `GroupSettings`, or of the head: `size`, `kind`, `ordered`, `language_channel`.
    """
    from grser.modeling.lavt import LAVT, LanguageAwareEncoder
    from grser.modeling.negative_rejection import Comparison
    from grser.modeling.swin import SwinTrunk
    from grser.modeling.text import ExpressionPairs
    from grser.modeling.triphasic_head import TriphasicHead
    from grser.settings import GroupSettings

    def build(size: int = 3, kind: str = "ranked", **given):
        torch.manual_seed(0)
        text = ExpressionPairs.build(str(tiny_text), frozen=False, max_tokens=20)
        lavt = LAVT(LanguageAwareEncoder(SwinTrunk("swin_nano"), text.width), 16)
        head = comparison = None
        if kind != "none":
            parts = {k: given.pop(k) for k in ("ordered", "language_channel") if k in given}
            width = lavt.encoder.widths[given.get("feature_level", 3)]
            head = TriphasicHead(width, text.width, size, kind=kind, **parts)
            comparison = Comparison(head.channels, text.width, 16)
        model = grser.GRSer(
            text_encoder=text,
            lavt=lavt,
            head=head,
            comparison=comparison,
            settings=GroupSettings(**given),
        )
        return model.eval()

    return build


@pytest.fixture(scope="session")
def model(make_model):
    """One that no test may change."""
    return make_model()


def picture(number: int, shown: bool, side: int = SIDE) -> dict:
    """A training image with a bright square, which it shows or not."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 120, (3, side, side), generator=generator).to(torch.uint8)
    target = torch.zeros(side, side, dtype=torch.uint8)
    if shown:
        target[8 : 8 + side // 3, 4 * number + 4 : 4 * number + 4 + side // 3] = 1
        image[:, target > 0] += 120
    return {
        "file_name": f"page{number}.png",
        "image": image,
        "target": target,
        "height": 48,
        "width": 80,
    }


@pytest.fixture
def make_group():
    """A group of images that do or do not show what its expression says."""

    def build(*shown: bool, expression: str = "the bright square") -> dict:
        images = [picture(number, one) for number, one in enumerate(shown)]
        return {"images": images, "expression": expression, "height": 48, "width": 80}

    return build
