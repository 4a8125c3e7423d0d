"""Freezing by name patterns, the table of parameters, and frozen random weights."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from hipie.checkpoint import Checkpointer, LoadReport
from hipie.engine.freezing import (
    check_frozen_parameters,
    freeze_parameters,
    parameter_table,
    parameters_as_built,
)
from hipie.errors import InputError
from tests.toy_trainer import Toy, ToyTrainer, run


class SavingTrainer(ToyTrainer):
    """Trainer with this package's checkpointer."""

    @classmethod
    def build_checkpointer(cls, cfg, model, **checkpointables):
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)


def two_parts() -> nn.Module:
    """4 parameters named backbone.stem.*, 6 and 2 named head.first.* and head.second.*."""
    head = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(1, 1)})
    return nn.ModuleDict({"backbone": nn.ModuleDict({"stem": nn.Linear(3, 1)}), "head": head})


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), set()),
        (("backbone.*",), {"backbone.stem.weight", "backbone.stem.bias"}),
        (
            ("*.first.*", "head.*.bias"),
            {"head.first.weight", "head.first.bias", "head.second.bias"},
        ),
    ],
)
def test_parameters_are_frozen_by_pattern(patterns, expected):
    model = two_parts()
    freeze_parameters(model, patterns)
    assert frozen_names(model) == expected


def test_pattern_without_a_match_is_an_error():
    with pytest.raises(
        InputError, match=r"'backbon\.\*' matches no parameter .* names are backbone"
    ):
        freeze_parameters(two_parts(), ["backbon.*"])


def test_frozen_parameters_are_not_trained(make_trainer, tmp_path):
    torch.save({"model": Toy().state_dict()}, tmp_path / "start.pth")
    start = torch.load(tmp_path / "start.pth")["model"]
    options = ("MODEL.FREEZE", ("first.*",), "MODEL.WEIGHTS", str(tmp_path / "start.pth"))
    trained = run(make_trainer(*options, kind=SavingTrainer)).model.state_dict()
    assert {name for name in start if torch.equal(start[name], trained[name])} == {
        "first.weight",
        "first.bias",
    }


def test_frozen_random_parameters_are_refused(make_trainer):
    trainer = make_trainer("MODEL.FREEZE", ("first.*",), kind=SavingTrainer)
    message = r'MODEL.FREEZE "first\.\*" freezes 2 parameters with random .* first\.weight'
    with pytest.raises(InputError, match=message):
        trainer.resume_or_load(False)


def test_parameters_that_a_file_or_a_module_does_not_provide_are_as_built():
    model = two_parts()
    names = {name for name, _ in model.named_parameters()}
    assert parameters_as_built(model, None) == names
    report = LoadReport(missing=("head.first.bias",), mismatched=("head.second.weight",))
    assert parameters_as_built(model, report) == {"head.first.bias", "head.second.weight"}
    model["backbone"].has_pretrained_weights = True
    assert parameters_as_built(model, None) == {n for n in names if n.startswith("head")}


def test_table_counts_parameters_of_modules(caplog, make_trainer):
    model = two_parts()
    freeze_parameters(model, ["backbone.*"])
    report = LoadReport(missing=("head.second.weight",))
    rows = [line.split() for line in parameter_table(model, report).splitlines()]
    assert rows[0] == ["module", "trainable", "frozen", "not", "loaded"]
    assert rows[2:] == [
        ["backbone", "0", "4", "0"],
        ["head", "8", "0", "1"],
        ["head.first", "6", "0", "0"],
        ["head.second", "2", "0", "1"],
        ["all", "8", "4", "1"],
    ]
    caplog.set_level(logging.INFO)
    make_trainer(kind=SavingTrainer).resume_or_load(False)
    assert "Parameters of the model:\nmodule" in caplog.text
    assert "second" in caplog.text


def test_frozen_random_text_encoder_is_refused(tiny_cfg):
    tiny_cfg.MODEL.HIPIE.TEXT.FROZEN = True
    model = nn.ModuleDict({"text_encoder": nn.Linear(1, 1)}).requires_grad_(False)
    check_frozen_parameters(tiny_cfg, model, None)
    model["text_encoder"].has_pretrained_weights = False
    model.text_encoder = model["text_encoder"]
    with pytest.raises(InputError, match="TEXT.FROZEN freezes 2 parameters"):
        check_frozen_parameters(tiny_cfg, model, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.BACKBONE.FREEZE_AT", 2], r"FREEZE_AT freezes \d+ parameters .* is backbone\.net"),
        (["MODEL.FREEZE", ("things.*",)], r'MODEL.FREEZE "things\.\*" freezes'),
        (["MODEL.HIPIE.TEXT.FROZEN", True], None),
    ],
)
def test_frozen_random_modules_of_hipie_are_refused(tiny_cfg, options, message):
    """Weights of the text encoder are of a folder, those of the backbone are random."""
    tiny_cfg.merge_from_list(options)
    model = build_model(tiny_cfg)
    freeze_parameters(model, tiny_cfg.MODEL.FREEZE)
    if message is None:
        check_frozen_parameters(tiny_cfg, model, None)
        return
    with pytest.raises(InputError, match=message):
        check_frozen_parameters(tiny_cfg, model, None)
    check_frozen_parameters(tiny_cfg, model, LoadReport())


def test_frozen_stem_with_weights_of_a_package_is_accepted(tiny_cfg):
    tiny_cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.TIMM.WEIGHTS", "package"),
            *("MODEL.TIMM.NAME", "tf_efficientnet_lite0"),
        ]
    )
    model = build_model(tiny_cfg)
    assert frozen_names(model.backbone)
    check_frozen_parameters(tiny_cfg, model, None)
