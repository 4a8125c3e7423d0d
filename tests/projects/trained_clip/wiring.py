"""How the effect of every key of `MODEL.TRAINED_CLIP` is observed, see `tests/wiring.py`.

They are observed by trained parameters, losses and outputs of a built model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.modeling.open_vocabulary import clip_loading
from hipie_trained_clip import referring
from tests.projects.trained_clip.conftest import fresh_clip, referring_item, semantic_item
from tests.wiring import WiredNode

_KEYS = "MODEL.TRAINED_CLIP"
LONG = "the red square that is at the top of the image and left of all the others"


def behaviour(architecture: str) -> Callable[[CfgNode], Any]:
    """Function that returns trained parameters, losses and outputs of an architecture."""

    def observe(cfg: CfgNode) -> Any:
        def load(model: str, weights: str = "") -> Any:
            return fresh_clip("random:tiny-resnet" if architecture == "CRIS" else "random:tiny")

        torch.manual_seed(0)
        kind = META_ARCH_REGISTRY.get(architecture)
        with (
            patch.object(referring, "load_clip", load),
            patch.object(clip_loading, "load_clip", load),
        ):
            arguments = kind.from_config(cfg)
        item = referring_item()
        if architecture == "ZegCLIP":
            item = semantic_item()
            arguments["train_datasets"] = ("picturebook_train_panoptic",)
        else:
            item["expressions"][0] = LONG
        model = kind(**arguments)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        for name, parameter in trained:
            if name.endswith("lora_b"):  # updates start at 0
                torch.nn.init.normal_(parameter.data, std=0.1)
        torch.manual_seed(1)
        losses = model.train().losses([item, item])
        with torch.no_grad():
            outputs = model.eval()([item])
        return [(n, tuple(p.shape)) for n, p in trained], losses, outputs

    return observe


def loaded(cfg: CfgNode) -> Any:
    """What CLIP is loaded from."""
    sources: list[Any] = []

    def load(*source: str) -> Any:
        sources.append(source)
        return fresh_clip("random:tiny-resnet")

    with patch.object(referring, "load_clip", load):
        META_ARCH_REGISTRY.get("CRIS").from_config(cfg)
    return sources


_SMALL = (
    *(f"{_KEYS}.HIDDEN_DIM", 32, f"{_KEYS}.DECODER.LAYERS", 1, f"{_KEYS}.DECODER.HEADS", 2),
    *(f"{_KEYS}.DECODER.DIM_FEEDFORWARD", 32, f"{_KEYS}.ZEGCLIP.PROMPT_BLOCKS", 2),
    *(f"{_KEYS}.ZEGCLIP.WINDOW", 0),
)
_ZEG = f"{_KEYS}.ZEGCLIP"
_WINDOWS = (f"{_ZEG}.WINDOW", 32, f"{_ZEG}.STRIDE", 32)

NODES = [
    WiredNode(
        _KEYS,
        behaviour("CRIS"),
        values={"MAX_TOKENS": 10, "HIDDEN_DIM": 64, "DECODER.HEADS": 4, "MASK_THRESHOLD": 0.6},
        options={"": _SMALL},
        other_nodes=(f"{_KEYS}.CLIP", f"{_KEYS}.ETRIS", _ZEG),
    ),
    WiredNode(
        f"{_KEYS}.ETRIS",
        behaviour("ETRIS"),
        values={"BRIDGE_CHANNELS": 32, "BRIDGE_HEADS": 4},
        options={"": (*_SMALL, f"{_KEYS}.ETRIS.BRIDGE_CHANNELS", 16)},
    ),
    WiredNode(
        _ZEG,
        behaviour("ZegCLIP"),
        values={
            "TUNING": "adapter",
            "PROMPT_BLOCKS": 1,
            "LAST_BLOCK": "values",
            "TEMPLATES": "simple",
            "DROP_PATH": 0.9,
            "WINDOW": 32,
            "STRIDE": 16,
            "SELF_TRAINING": 0.0,
        },
        options={
            "": _SMALL,
            "SELF_TRAINING": ("DATASETS.HELD_OUT_CLASSES", ("sand",)),
            "ADAPTER_CHANNELS": (f"{_ZEG}.TUNING", "adapter"),
            "ADAPTER_SCALE": (f"{_ZEG}.TUNING", "adapter"),
            "LORA_RANK": (f"{_ZEG}.TUNING", "lora"),
            "LORA_SCALE": (f"{_ZEG}.TUNING", "lora"),
            "WINDOW": (f"{_ZEG}.STRIDE", 16),
            "STRIDE": _WINDOWS,
        },
    ),
    WiredNode(
        f"{_KEYS}.CLIP",
        loaded,
        values={"MODEL": "RN101", "WEIGHTS": "clip.pt"},
        options={"": _SMALL},
    ),
]
