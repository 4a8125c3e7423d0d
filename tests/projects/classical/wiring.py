"""How the effect of every key of classical segmentation is observed, see `tests/wiring.py`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from detectron2.config import CfgNode

from hipie.modeling.open_vocabulary.clip import Clip
from hipie_classical import ClassicalRegions
from hipie_classical.modeling import naming
from hipie_classical.modeling.prototypes import Prototypes
from tests.wiring import WiredNode


class _Source:
    """Stands for a network or prototypes, with what they would be loaded from."""

    features = ("color",)
    model = None

    def __init__(self, *source: Any) -> None:
        self.source = source


def built(cfg: CfgNode) -> Any:
    """The arguments of the architecture."""
    with (
        patch.object(Clip, "from_source", _Source),
        patch.object(Prototypes, "read", _Source),
        patch.object(naming, "RegionFeatures", _Source),
    ):
        arguments = ClassicalRegions.from_config(cfg)
    named = arguments.pop("naming")
    return arguments, type(named).__name__, {**vars(named), "_modules": None}


def fitted(cfg: CfgNode) -> Any:
    """Kinds of the features of new prototypes."""
    from hipie_classical.__main__ import fit_prototypes

    with patch("hipie_classical.modeling.region_features.RegionFeatures") as features:
        features.return_value.kinds = ()
        try:
            fit_prototypes(cfg, [], [], 255)
        except ValueError:
            return features.call_args.args


_KEYS = "MODEL.CLASSICAL"
_METHOD = f"{_KEYS}.METHOD"

NODES = [
    WiredNode(
        _KEYS,
        built,
        values={
            "METHOD": "otsu",
            "NAMING": "clip",
            "REFINEMENT": "pamr",
            "PROTOTYPES.FILE": "other.json",
            "CLIP.MODEL": "ViT-L-14",
            "CLIP.WEIGHTS": "clip.pt",
            "CLIP.TEMPLATES": "one",
        },
        options={
            "OTSU.CLASSES": (_METHOD, "otsu"),
            "REGION_GROWING.TOLERANCE": (_METHOD, "region_growing"),
            "WATERSHED.MARKERS": (_METHOD, "watershed"),
            "WATERSHED.COMPACTNESS": (_METHOD, "watershed"),
            "FELZENSZWALB.SCALE": (_METHOD, "felzenszwalb"),
            "FELZENSZWALB.SIGMA": (_METHOD, "felzenszwalb"),
            "NORMALIZED_CUT.THRESHOLD": (_METHOD, "normalized_cut"),
            "NORMALIZED_CUT.CUTS": (_METHOD, "normalized_cut"),
            "NORMALIZED_CUT.SIGMA": (_METHOD, "normalized_cut"),
            "GRABCUT.ITERATIONS": (_METHOD, "grabcut"),
            "GRABCUT.MARGIN": (_METHOD, "grabcut"),
            "CLIP.MODEL": (f"{_KEYS}.NAMING", "clip"),
            "CLIP.WEIGHTS": (f"{_KEYS}.NAMING", "clip"),
            "CLIP.TEMPLATES": (f"{_KEYS}.NAMING", "clip"),
        },
        other_nodes=(f"{_KEYS}.PROTOTYPES.FEATURES",),
    ),
    WiredNode(
        f"{_KEYS}.PROTOTYPES.FEATURES",
        fitted,
        values={f"{_KEYS}.PROTOTYPES.FEATURES": ("color",)},
    ),
]
