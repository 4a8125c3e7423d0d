"""Conversion of the published checkpoints' names and shapes to those of the models."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

from hipie import model_zoo
from hipie.checkpoint import CheckpointError
from hipie.checkpoint.converters.conversion import convert_state
from hipie.checkpoint.converters.hipie import OFFICIAL_HIPIE, UNINEXT
from hipie.checkpoint.load import load_state

CONVERTERS = (OFFICIAL_HIPIE, UNINEXT)

NAMES = Path(__file__).parents[2] / "data" / "checkpoint"


def published(variant: str) -> dict[str, Tensor]:
    packed = (NAMES / f"official_{variant}_names.tsv.gz").read_bytes()
    rows = (line.split("\t") for line in gzip.decompress(packed).decode().splitlines())
    return {name: torch.zeros(1).expand(json.loads(shape)) for name, shape in rows}


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return published("r50")


@pytest.mark.parametrize(("variant", "count"), [("r50", 1438), ("vit_h", 1626)])
def test_every_published_tensor_is_converted(
    variant: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Detectron2's ViT reads numbers of a tensor while it is built.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    official = published(variant)
    cfg = model_zoo.get_config(f"universal/hipie_{variant}.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        own = build_model(cfg).state_dict()
    conversion = convert_state(official, CONVERTERS)
    assert conversion.layout == "official HIPIE"
    assert set(conversion.state) == set(own)
    assert {k: v.shape for k, v in conversion.state.items()} == {k: v.shape for k, v in own.items()}
    assert len(conversion.state) + len(conversion.dropped) == len(official) == count


def test_position_ids_of_old_berts_are_dropped(official: dict[str, Tensor]) -> None:
    name = "text_encoder.body.model.embeddings.position_ids"
    assert name in convert_state({**official, name: torch.arange(512)[None]}, CONVERTERS).dropped


def test_copy_that_differs_is_an_error(official: dict[str, Tensor]) -> None:
    name = "detr.mask_dino.predictor.decoder.norm.weight"
    with pytest.raises(CheckpointError, match=r"predictor\.decoder\.norm\.weight"):
        convert_state({**official, name: torch.ones(256)}, CONVERTERS)


def test_uninext_checkpoint_is_converted_in_part(official: dict[str, Tensor]) -> None:
    uninext_state = {name: value for name, value in official.items() if "mask_dino" not in name}
    uninext_state["detr.reid_embed_head.layers.0.weight"] = torch.zeros(1).expand(256, 256)
    conversion = convert_state(uninext_state, CONVERTERS)
    assert conversion.layout == "UNINEXT"
    assert not conversion.complete
    assert "detr.reid_embed_head.layers.0.weight" in conversion.dropped
    modules = {name.split(".")[0] for name in conversion.state}
    assert modules == {"backbone", "text_encoder", "things"}


def test_weights_of_another_backbone_are_named(official: dict[str, Tensor], tiny_vit) -> None:
    with pytest.raises(CheckpointError, match=r"a ResNet as backbone, and this HIPIE has a ViT"):
        load_state(tiny_vit, official, "r50.pth")
