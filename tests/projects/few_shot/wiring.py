"""How the effect of every key of few-shot segmentation is observed, see `tests/wiring.py`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from detectron2.config import CfgNode

from hipie.data.datasets import register_all
from hipie.errors import HipieError
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.sam.predictor import Sam
from hipie_fewshot import build
from hipie_fewshot.data.episodes import few_shot_episodes
from hipie_fewshot.modeling.dino import Dino
from tests.wiring import WiredNode


class _Source:
    """Stands for a network, with what it would be loaded from."""

    def __init__(self, *source: Any) -> None:
        self.source = source

    def require_padded(self, what: str) -> None:
        """A SAM with SAM's own decoder."""


def method(cfg: CfgNode) -> Any:
    """The method with its settings and the sources of its networks."""
    with (
        patch.object(Sam, "from_source", _Source),
        patch.object(Dino, "from_source", _Source),
        patch.object(Clip, "from_source", _Source),
        patch.object(build, "ClipPatches", _Source),
    ):
        return build.build_method(cfg)


def episodes(cfg: CfgNode) -> Any:
    """Episodes of a data set, or the error in place of them."""
    cfg = cfg.clone()
    cfg.PICTUREBOOK.ROOT += "_few_shot"  # other tests draw fewer pages
    register_all(cfg)
    try:
        drawn = few_shot_episodes(cfg, "picturebook_val_panoptic", False).records
    except HipieError as error:
        return str(error)
    return [
        (episode["class_id"], episode["query"]["image_id"], [r["image_id"] for r in supports])
        for episode in drawn
        for supports in [episode["support"]]
    ]


_KEYS = "MODEL.FEWSHOT"
_METHOD = f"{_KEYS}.METHOD"

NODES = [
    WiredNode(
        _KEYS,
        method,
        values={
            "METHOD": "persam",
            "SAM": "vit_l",
            "SAM_WEIGHTS": "sam.pth",
            "DINO": "vit_small_patch14_dinov2",
            "DINO_WEIGHTS": "dino.pth",
            "CLIP.MODEL": "ViT-L-14",
            "CLIP.WEIGHTS": "clip.pt",
        },
        options={
            "PROTOTYPE.BACKGROUND": (_METHOD, "prototype"),
            "CLIP.MODEL": (_METHOD, "clip_prototype"),
            "CLIP.WEIGHTS": (_METHOD, "clip_prototype"),
            "PERSAM.STRETCHED_GUIDANCE": (_METHOD, "persam"),
            "PERSAM.STEPS": (_METHOD, "persam_f"),
            "PERSAM.RATE": (_METHOD, "persam_f"),
        },
        other_nodes=(f"{_KEYS}.EPISODES",),
    ),
    WiredNode(
        f"{_KEYS}.EPISODES",
        episodes,
        options={
            "": (f"{_KEYS}.EPISODES.NUMBER", 8, "PICTUREBOOK.VAL_PAGES", 10),
            "FOLD": (f"{_KEYS}.EPISODES.FOLDS", 2),
            "CONSECUTIVE": (f"{_KEYS}.EPISODES.FOLDS", 2),
        },
    ),
]
