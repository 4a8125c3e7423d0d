"""How the effect of every key of learning without labels is observed, see `tests/wiring.py`."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from hipie_unsupervised.data.multi_crop import CropConfig, MultiCrop
from hipie_unsupervised.dino import DINO
from hipie_unsupervised.modeling.drop_loss import DropLossStuffCriterion
from hipie_unsupervised.modeling.vit import vit_arguments
from hipie_unsupervised.tseg import TSEG
from tests.projects.unsupervised.conftest import HEAD, VIT, LetterCounts
from tests.wiring import WiredNode

_KEYS = "MODEL.UNSUPERVISED"
_SMALL = (*VIT, *HEAD)


def dino(cfg: CfgNode) -> Any:
    """Head, loss and schedules of the architecture."""
    torch.manual_seed(0)
    arguments = DINO.from_config(cfg)
    del arguments["network"]
    return arguments


def crops(cfg: CfgNode) -> Any:
    """Crops of an image."""
    image = torch.arange(3 * 40 * 50).reshape(3, 40, 50).to(torch.uint8)
    return MultiCrop(CropConfig.from_config(cfg))(image, 0)


def clustering(cfg: CfgNode) -> Any:
    """Features and number of the centroids, on a random backbone."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_vit_tokens_backbone"
    build: Any = META_ARCH_REGISTRY.get("FeatureClustering")
    model = build(**build.from_config(cfg))
    return model.features, model.centroids.shape


def tseg(cfg: CfgNode) -> Any:
    """Features, width and threshold of the architecture, on a random backbone and a stub."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_vit_tokens_backbone"
    with mock.patch("hipie_unsupervised.tseg.build_text_encoder", lambda _: LetterCounts()):
        model = TSEG(**TSEG.from_config(cfg))
    return model.features, model.patch_projection.weight.shape, model.mask_threshold


def weights(cfg: CfgNode) -> Any:
    """Arguments of the backbone."""
    from hipie_unsupervised.modeling.vit import ViTTokens

    return ViTTokens.from_config(cfg), vit_arguments(cfg)


NODES = [
    WiredNode(
        f"{_KEYS}.VIT",
        weights,
        values={"NAME": "vit_base_patch8_224.dino", "WEIGHTS": "vit.pth"},
    ),
    WiredNode(f"{_KEYS}.DINO", dino, options={"": _SMALL}),
    WiredNode(
        f"{_KEYS}.CROPS",
        crops,
        values={"GLOBAL_SCALE": (0.9, 1.0), "LOCAL_SCALE": (0.5, 0.6)},
        options={"": (f"{_KEYS}.CROPS.GLOBAL_SIZE", 32, f"{_KEYS}.CROPS.LOCAL_SIZE", 16)},
    ),
    WiredNode(
        f"{_KEYS}.CLUSTERING",
        clustering,
        values={"FEATURES": ("keys",)},
        options={"": VIT},
    ),
    WiredNode(
        f"{_KEYS}.TSEG",
        tseg,
        values={"FEATURES": ("keys", "tokens"), "MASK_THRESHOLD": 0.3},
        options={"": VIT},
    ),
    WiredNode(f"{_KEYS}.DROP_LOSS_IOU", DropLossStuffCriterion.from_config),
]
