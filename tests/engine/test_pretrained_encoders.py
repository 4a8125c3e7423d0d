"""Text weights at the start of a training, and encoders that would start from random weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining

from hipie.checkpoint import Checkpointer, LoadReport
from hipie.engine.pretrained_encoders import (
    check_pretrained_encoders,
    load_text_encoder,
    random_encoders,
)
from hipie.engine.trainer import Trainer
from hipie.errors import InputError
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import expression_caption

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture
def small_bert(monkeypatch: pytest.MonkeyPatch) -> None:
    """bert-base-uncased is built with two narrow layers."""
    monkeypatch.setattr("transformers.BertConfig", lambda: BertConfig(**SIZES))


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, BertForPreTraining]:
    """A file with the names of BERT's release, and the network with its weights."""
    torch.manual_seed(7)
    network = BertForPreTraining(BertConfig(**SIZES)).eval()
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in network.state_dict().items()
    }
    file = tmp_path / "bert.pth"
    torch.save(state, file)
    return file, network


def model_with_text() -> nn.Module:
    model = nn.Module()
    model.text_encoder = BertTextEncoder.from_source("bert-base-uncased").eval()
    return model


def test_released_text_weights_are_loaded(small_bert, released, tiny_cfg: CfgNode) -> None:
    file, network = released
    tiny_cfg.MODEL.TEXT_ENCODER_WEIGHTS = str(file)
    model = model_with_text()
    assert random_encoders(model, None) == {"text_encoder": 1.0}
    load_text_encoder(tiny_cfg, model, None)
    assert random_encoders(model, None) == {}
    with torch.no_grad():
        features = model.text_encoder([expression_caption("the red car")])
        expected = network.bert(features.input_ids).last_hidden_state
    torch.testing.assert_close(features.hidden, expected)


def test_text_weights_of_a_checkpoint_are_kept(small_bert, released, tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.TEXT_ENCODER_WEIGHTS = str(released[0])
    model = model_with_text()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_text_encoder(tiny_cfg, model, LoadReport(loaded=len(before)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def drop(state: dict[str, Tensor]) -> None:
    del state["bert.encoder.layer.1.output.dense.bias"]


def narrow(state: dict[str, Tensor]) -> None:
    name = "bert.encoder.layer.1.output.dense.bias"
    state[name] = state[name][:5]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"lacks 1 tensors of text_encoder, the first is .*layer\.1\.output\.dense\.bias"),
        (narrow, r'layer\.1\.output\.dense\.bias" \(it is 5 in the file and 32 in the model'),
    ],
)
def test_unsuitable_text_weights_are_refused(
    small_bert, released, tiny_cfg: CfgNode, damage, message: str
) -> None:
    state = torch.load(released[0])
    damage(state)
    torch.save(state, released[0])
    tiny_cfg.MODEL.TEXT_ENCODER_WEIGHTS = str(released[0])
    with pytest.raises(ValueError, match=message):
        load_text_encoder(tiny_cfg, model_with_text(), None)


def test_text_weights_need_a_text_encoder(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.TEXT_ENCODER_WEIGHTS = "bert.pth"
    with pytest.raises(InputError, match="and a Linear has no text encoder"):
        load_text_encoder(tiny_cfg, nn.Linear(1, 1), None)


def test_outermost_encoders_count_by_their_parameters() -> None:
    model = nn.ModuleDict(
        {
            "lavt": nn.ModuleDict({"backbone": nn.Linear(9, 1)}),
            "image_encoder": nn.ModuleDict({"backbone": nn.Linear(1, 1)}),
            "head": nn.Linear(99, 99),
        }
    )
    assert random_encoders(model, None) == {"lavt.backbone": 1.0, "image_encoder": 1.0}
    missing = LoadReport(missing=("lavt.backbone.bias", "image_encoder.backbone.weight"))
    assert random_encoders(model, missing) == {}
    missing = LoadReport(missing=("lavt.backbone.weight", "head.weight"))
    assert random_encoders(model, missing) == {"lavt.backbone": 0.9}


def test_random_backbone_is_a_warning_and_in_recipes_an_error(
    tiny_cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model(tiny_cfg)
    with caplog.at_level(logging.WARNING, "hipie"):
        check_pretrained_encoders(tiny_cfg, model, None)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "The training would start from random weights of backbone (100%)"
    ]
    tiny_cfg.MODEL.REQUIRE_PRETRAINED = True
    with pytest.raises(InputError, match=r"REQUIRE_PRETRAINED is True, .* of backbone \(100%\)"):
        check_pretrained_encoders(tiny_cfg, model, None)
    check_pretrained_encoders(tiny_cfg, model, LoadReport())


def test_trainer_refuses_random_encoders_and_takes_those_of_a_checkpoint(
    tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    tiny_cfg.MODEL.REQUIRE_PRETRAINED = True
    Checkpointer(build_model(tiny_cfg), str(tmp_path)).save("start")
    with pytest.raises(InputError, match="REQUIRE_PRETRAINED"):
        Trainer(tiny_cfg).resume_or_load(False)
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "start.pth")
    Trainer(tiny_cfg).resume_or_load(False)
