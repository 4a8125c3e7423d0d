"""How the effect of every key of `MODEL.PEERS` is observed, see `tests/wiring.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.modeling.sam.predictor import Sam
from hipie.vocabularies import Vocabulary
from hipie_peers import grounded_sam, meta_arch
from hipie_peers.loading import NetworkType
from hipie_peers.random_networks import build_random
from tests.wiring import WiredNode

_KEYS = "MODEL.PEERS"
VOCABULARY = Vocabulary.from_names(["dog", "car"], ["sky", "grass"])


@lru_cache(maxsize=8)
def _network(architecture: str) -> Any:
    return build_random(architecture)


def _item(*, expressions: bool) -> dict[str, Any]:
    image = torch.randint(0, 255, (3, 60, 80), generator=torch.Generator().manual_seed(0))
    return {
        "image": image,
        **({"expressions": ["a dog"]} if expressions else {"vocabulary": VOCABULARY}),
    }


def outputs(architecture: str, expressions: bool = False) -> Callable[[CfgNode], Any]:
    """Function that returns the output of an architecture with a small random network."""

    def load(source: str, kind: NetworkType) -> Any:
        return _network(kind.model_type)

    def observe(cfg: CfgNode) -> Any:
        with patch.object(meta_arch, "load_network", load):
            build = META_ARCH_REGISTRY.get(architecture)
            model = build(**build.from_config(cfg)).eval()
        return model([_item(expressions=expressions)])

    return observe


def sources(cfg: CfgNode) -> Any:
    """What the networks of GroundedSAM are loaded from."""
    loaded: list[Any] = []

    def load(source: str, kind: NetworkType) -> Any:
        loaded.append(source)
        return _network(kind.model_type)

    sam = Sam.from_source("random:tiny")
    with (
        patch.object(meta_arch, "load_network", load),
        patch.object(grounded_sam, "sam_source", lambda *names: names),
        patch.object(Sam, "from_source", lambda *names: loaded.append(names) or sam),
    ):
        META_ARCH_REGISTRY.get("GroundedSAM").from_config(cfg)
    return loaded


_SMALL = (f"{_KEYS}.SAM", "random:tiny", f"{_KEYS}.MAX_TOKENS", 12)


def _node(key: str, architecture: str, value: Any, *settings: Any, expressions: bool = False):
    return WiredNode(
        f"{_KEYS}.{key}",
        outputs(architecture, expressions),
        values={f"{_KEYS}.{key}": value},
        options={"": _SMALL, f"{_KEYS}.{key}": settings},
    )


NODES = [
    _node("THRESHOLD", "TransformersCLIPSeg", 0.9),
    _node("MASK_THRESHOLD", "TransformersSAM3", 0.51, f"{_KEYS}.THRESHOLD", 0.001),
    WiredNode(
        f"{_KEYS}.INSTANCE_THRESHOLD",
        outputs("TransformersMask2Former"),
        tested={
            f"{_KEYS}.INSTANCE_THRESHOLD": "tests/projects/peers/test_equals_transformers.py"
            "::test_closed_vocabularies_have_the_segments_of_transformers"
        },
    ),
    _node("OVERLAP", "GroundedSAM", 0.0),
    _node("NMS", "TransformersSAM3", 1.0, f"{_KEYS}.THRESHOLD", 0.001),
    _node("BEAMS", "TransformersFlorence2", 1, expressions=True),
    _node("MAX_TOKENS", "TransformersFlorence2", 9, expressions=True),
    WiredNode(f"{_KEYS}.SOURCE", sources, values={f"{_KEYS}.SOURCE": "random:tiny"}),
    WiredNode(f"{_KEYS}.SAM", sources, values={f"{_KEYS}.SAM": "vit_b"}),
    WiredNode(f"{_KEYS}.SAM_WEIGHTS", sources, values={f"{_KEYS}.SAM_WEIGHTS": "sam.pth"}),
]
