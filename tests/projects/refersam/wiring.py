"""How the effect of every key of ReferSAM is observed, see `tests/wiring.py`.

They are observed by losses and outputs of a built model, not by what it is built of: a key that is
passed on and not used is found as well.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances

from refersam import ReferSAM
from tests.wiring import WiredNode


def behaviour(cfg: CfgNode) -> Any:
    """Trained parameters, losses and output for an image with two expressions."""
    torch.manual_seed(0)
    model = ReferSAM(**_arguments(cfg))
    for parameter in model.parameters():
        if not parameter.any():  # scales of residuals start at 0
            torch.nn.init.normal_(parameter.data, std=0.1)
    trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    torch.manual_seed(1)
    losses = model.train().losses([_item()])
    with torch.no_grad():
        return trained, losses, model.eval()([_item()])


def image_encoder(cfg: CfgNode) -> str:
    """Type of the SAM that is built."""
    return _arguments(cfg)["sam"]


def _arguments(cfg: CfgNode) -> dict[str, Any]:
    cfg = cfg.clone()
    if cfg.MODEL.REFERSAM.TEXT.SOURCE == "bert-base-uncased":
        cfg.MODEL.REFERSAM.TEXT.SOURCE = cfg.MODEL.HIPIE.TEXT.SOURCE
    return ReferSAM.from_config(cfg)


def _item() -> dict[str, Any]:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 4:24, 4:30] = masks[1, 30:60, 30:50] = True
    instances = Instances((64, 64))
    instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.arange(2)
    noise = torch.randint(0, 50, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    return {
        "image": (masks.any(0) * 200 + noise).to(torch.uint8),
        "expressions": ["the red square at the top of the image", "the other square"],
        "instances": instances,
    }


_KEYS = "MODEL.REFERSAM"
_SMALL = (f"{_KEYS}.SAM", "vit_t", f"{_KEYS}.LOSS.NUM_POINTS", 64)

NODES = [
    WiredNode(
        _KEYS,
        behaviour,
        values={
            "FEATURE_STRIDES": (16,),
            "NUM_INTERACTIONS": 3,
            "TEXT.SOURCE": "minilm",
            "TEXT.MAX_TOKENS": 5,
            "LOSS.WEIGHTS": (1.0, 0.5, 1.0, 1.0),
            "TEST.NO_TARGET_PIXELS": 480**2 + 1,
        },
        options={
            "": _SMALL,
            "INTERACTOR_TEXT": (f"{_KEYS}.CONTEXT_TOKENS", 0),
            "PROMPTER": (
                *(f"{_KEYS}.DENSE_PROMPT", False),
                *(f"{_KEYS}.LOSS.WEIGHTS", (1.0, 1.0, 0.0, 0.0)),
            ),
        },
        other_nodes=(f"{_KEYS}.SAM",),
    ),
    WiredNode(f"{_KEYS}.SAM", image_encoder, values={f"{_KEYS}.SAM": "vit_l"}),
]
