"""How the effect of every key of reasoning segmentation is observed, see `tests/wiring.py`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from torch import nn

from hipie import Segmenter
from hipie.modeling.sam import loading
from hipie_reasoning import ReasoningSeg
from hipie_reasoning.data.dataset_mapper import ReasoningDatasetMapper, reasoning
from hipie_reasoning.modeling.language_model import MultimodalLanguageModel
from tests.wiring import WiredNode


def behaviour(cfg: CfgNode) -> Any:
    """Trained parameters, losses, and the answer to a question."""
    torch.manual_seed(0)
    model = ReasoningSeg(**ReasoningSeg.from_config(cfg))
    trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    if "lora" in str(trained):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    target = torch.zeros(1, 64, 64, dtype=torch.bool)
    target[:, 10:40, 20:50] = True
    image = (target * 200).expand(3, -1, -1).to(torch.uint8)
    item = {
        "image": image,
        "questions": ["Which can fly?"],
        "answers": ["It is [SEG]."],
        "targets": [target],
    }
    torch.manual_seed(1)
    losses = model.train().losses([item])
    with torch.no_grad():
        (output,) = model.eval()([item])
    answer = output["reasoning"][0]
    return trained, losses, answer.text, answer.instances.pred_masks


def sources(cfg: CfgNode) -> Any:
    """Names and files of the networks that are loaded."""
    loaded: list[Any] = []

    def stop(*arguments: Any, **options: Any) -> Any:
        loaded.append((arguments, sorted(options.items())))
        raise InterruptedError

    with (
        patch.object(loading, "load_sam", stop),
        patch.object(Segmenter, "from_config", stop),
        patch.object(MultimodalLanguageModel, "from_source", stop),
    ):
        from hipie_reasoning.modeling.mask_decoder import build_mask_decoder

        for build in (ReasoningSeg.from_config, build_mask_decoder):
            try:
                build(cfg)
            except InterruptedError:
                continue
    return loaded


def mapper(cfg: CfgNode) -> Any:
    """Options of the mapper."""
    mapped = reasoning(cfg, "picturebook_val_grefer", True)
    assert isinstance(mapped.mapper, ReasoningDatasetMapper)
    return vars(mapped.mapper)


_KEYS = "MODEL.REASONING"
_SMALL = (f"{_KEYS}.LANGUAGE_MODEL", "tiny", f"{_KEYS}.SAM", "random:tiny")
_SOURCES = ("LANGUAGE_MODEL", "SAM", "SAM_WEIGHTS", "HIPIE", "HIPIE_WEIGHTS", "MASK_DECODER")
_OTHERS = (*(f"{_KEYS}.{name}" for name in _SOURCES), f"{_KEYS}.DATA", f"{_KEYS}.MAX_TOKENS")
_HIPIE = (f"{_KEYS}.MASK_DECODER", "hipie")
_MAX_TOKENS = "test_the_limit_of_tokens_is_that_of_the_key"

NODES = [
    WiredNode(
        _KEYS,
        behaviour,
        values={
            "SEG_STATE": "token",
            "LORA.TARGETS": ("k_proj",),
            "TEST.ASSUMED_ANSWER": "Sure, [SEG].",
            "TEST.MAX_NEW_TOKENS": 2,
            "LORA.DROPOUT": 0.9,
        },
        options={"": _SMALL},
        other_nodes=_OTHERS,
    ),
    WiredNode(
        f"{_KEYS}.MAX_TOKENS",
        behaviour,
        tested={
            f"{_KEYS}.MAX_TOKENS": f"tests/projects/reasoning/test_meta_arch.py::{_MAX_TOKENS}"
        },
        options={"": _SMALL},
    ),
    WiredNode(f"{_KEYS}.DATA", mapper),
    *(
        WiredNode(
            f"{_KEYS}.{name}",
            sources,
            values={f"{_KEYS}.{name}": value},
            options={"": _HIPIE} if name.startswith("HIPIE") else {},
        )
        for name, value in zip(
            _SOURCES,
            ("tiny", "vit_l", "sam.pth", "other.yaml", "other.pth", "hipie"),
            strict=True,
        )
    ),
]
