"""How the effect of every key of interactive segmentation is observed, see `tests/wiring.py`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode

from hipie.evaluation import build_evaluator
from hipie.modeling.sam.predictor import Sam
from hipie_interactive import InteractiveSAM
from tests.wiring import WiredNode


def loaded(cfg: CfgNode) -> Any:
    """Type and file of the SAM that is loaded."""
    sources: list[Any] = []
    with patch.object(Sam, "from_source", lambda *source: sources.append(source)):
        InteractiveSAM.from_config(cfg)
    return sources


def clicks(cfg: CfgNode) -> Any:
    """Clicks on an object, and the evaluator of such results."""
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "InteractiveSAM"
    torch.manual_seed(0)
    model = InteractiveSAM(**InteractiveSAM.from_config(cfg)).eval()
    rows, columns = torch.arange(60)[:, None], torch.arange(90)
    target = ((rows - 25) ** 2 + (columns - 35) ** 2 < 220)[None]
    image = (target * 200).expand(3, -1, -1).to(torch.uint8)
    (output,) = model([{"image": image, "targets": target}])
    (simulated,) = output["interactive"]
    evaluator = build_evaluator(cfg, "picturebook_val_panoptic")
    evaluator.reset()
    evaluator.process([{"image": image, "targets": target, "image_id": 0}], [output])
    return simulated, evaluator.evaluate()


_KEYS = "MODEL.INTERACTIVE"
SIMULATED = ("CLICKS", "PROMPTS", "BOX_JITTER", "POLYGON_VERTICES")

SMALL = (f"{_KEYS}.SAM", "random:tiny", f"{_KEYS}.CLICKS", 2)

NODES = [
    WiredNode(
        _KEYS,
        loaded,
        values={"SAM": "vit_l", "WEIGHTS": "sam.pth"},
        other_nodes=tuple(f"{_KEYS}.{key}" for key in SIMULATED),
    ),
    WiredNode(
        f"{_KEYS}.CLICKS",
        clicks,
        options={"": SMALL},
    ),
    WiredNode(
        f"{_KEYS}.PROMPTS",
        clicks,
        values={f"{_KEYS}.PROMPTS": "scribbles"},
        options={"": SMALL},
    ),
    WiredNode(
        f"{_KEYS}.BOX_JITTER",
        clicks,
        values={f"{_KEYS}.BOX_JITTER": 0.5},
        options={"": (*SMALL, f"{_KEYS}.PROMPTS", "boxes")},
    ),
    WiredNode(
        f"{_KEYS}.POLYGON_VERTICES",
        clicks,
        values={f"{_KEYS}.POLYGON_VERTICES": 4},
        options={"": (*SMALL, f"{_KEYS}.PROMPTS", "polygons")},
    ),
]
