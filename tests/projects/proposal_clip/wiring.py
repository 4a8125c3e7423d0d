"""How the effect of every key of `ProposalCLIP` is observed, see `tests/wiring.py`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from unittest.mock import patch

from detectron2.config import CfgNode
from torch import nn

from hipie import model_zoo
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.sam.predictor import Sam
from hipie_proposal_clip.build import model_arguments
from hipie_proposal_clip.meta_arch import ProposalCLIP
from tests.wiring import WiredNode


class OtherModel(nn.Module):
    """Stands for the model whose segments are renamed."""

    tasks = frozenset({"universal"})


@lru_cache
def _clip(model: str) -> Clip:
    return Clip.from_source(model)


@lru_cache
def _sam() -> Sam:
    return Sam.from_source("random:tiny")


def model(cfg: CfgNode) -> Any:
    """The model, and what its networks are loaded from."""
    sources: list[Any] = []
    build_clip = _clip

    def load_clip(name: str, weights: str) -> Clip:
        sources.append((name, weights))
        return build_clip(name)

    def load_sam(*source: str) -> Sam:
        sources.append(source)
        return _sam()

    def get_model(name: str, trained: bool = True) -> OtherModel:
        sources.append((name, trained))
        return OtherModel()

    clip, sam = _clip(cfg.MODEL.PROPOSAL_CLIP.CLIP.MODEL), _sam()
    assert clip is not None and sam is not None
    with (
        patch.object(Clip, "from_source", load_clip),
        patch.object(Sam, "from_source", load_sam),
        patch.object(model_zoo, "get", get_model),
        patch.object(model_zoo, "get_config", lambda name: cfg),
        patch("hipie_proposal_clip.modeling.proposals.Checkpointer") as checkpointer,
    ):
        arguments = model_arguments(cfg)
        sources += [call.args for call in checkpointer().load.call_args_list]
    arguments.pop("clip")
    built = ProposalCLIP(clip=clip, **arguments)
    trained = [name for name, value in built.named_parameters() if value.requires_grad]
    # Hooks are numbered by how many there were before.
    without = ("clip", "conv", "clip_network", "_load_state_dict_post_hooks")
    own = {k: v for k, v in vars(built).items() if k not in without}
    own["_modules"] = {k: v for k, v in built._modules.items() if k != "clip_network"}
    return sources, trained, own


_KEYS = "MODEL.PROPOSAL_CLIP"
_CROPS = (
    *(f"{_KEYS}.MASK_FEATURES", "crops", f"{_KEYS}.SHARED_BACKBONE", False),
    *(f"{_KEYS}.CLIP.MODEL", "random:tiny", f"{_KEYS}.MASK_PROMPT_DEPTH", 2),
)

NODES = [
    WiredNode(
        _KEYS,
        model,
        values={
            "MASKS": "mask2former",
            "MASK_FEATURES": "crops",
            "TRAIN": "mask_prompts",
            "TEMPLATES": "imagenet",
            "CLIP.MODEL": "random:tiny-resnet",
            "CLIP.WEIGHTS": "openai",
            "ENSEMBLE.BETA": 0.5,
            "ENSEMBLE.TRAIN_VOCABULARY": "ade20k_150",
            "SAM.MODEL": "vit_b",
            "SAM.WEIGHTS": "sam.pth",
            "HIPIE.CONFIG_FILE": "nano/hipie_nano_picturebook.yaml",
            "HIPIE.WEIGHTS": "model.pth",
        },
        options={
            "": (f"{_KEYS}.CLIP.MODEL", "random:tiny-convnext", f"{_KEYS}.CLIP.WEIGHTS", ""),
            "MASK_PROMPT_DEPTH": _CROPS,
            "TRAIN": _CROPS,
            **{
                f"{source}.{key}": (f"{_KEYS}.MASKS", source.lower())
                for source, names in (
                    ("SAM", ("MODEL", "WEIGHTS", "POINTS", "PRED_IOU", "STABILITY")),
                    ("KMEANS", ("CLUSTERS", "RESTARTS")),
                    ("HIPIE", ("CONFIG_FILE", "WEIGHTS")),
                )
                for key in names
            },
        },
    ),
]
