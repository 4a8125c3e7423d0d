"""Detectron2's keys are honoured, or named when they are changed."""

from __future__ import annotations

import logging
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

from hipie import add_hipie_config, model_zoo
from hipie.config.loading import keys
from hipie.config.unread import changed_unread_keys, unread_sections, warn_about_unread_keys
from hipie.engine.trainer import Trainer

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/**/*.yaml")])
# Read only with another key that is not the default.
CONDITIONAL = {
    "SOLVER.BASE_LR_END": ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
    "SOLVER.NUM_DECAYS": ("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
    "SOLVER.MOMENTUM": ("SOLVER.OPTIMIZER", "SGD"),
    "SOLVER.NESTEROV": ("SOLVER.OPTIMIZER", "SGD"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("SOLVER.CLIP_GRADIENTS.ENABLED", True),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": ("SOLVER.CLIP_GRADIENTS.ENABLED", True),
    "TEST.PRECISE_BN.NUM_ITER": ("TEST.PRECISE_BN.ENABLED", True),
    # With a clipping by the norm of each parameter.
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    # Detectron2's reader of files and its `default_setup` use them.
    "VERSION": ("", None),
    "CUDNN_BENCHMARK": ("", None),
}


class Reads(set):
    """Names of keys that were read; copies of a configuration share it."""

    def __deepcopy__(self, memo: dict) -> Reads:
        return self


class RecordingNode(CfgNode):
    """Configuration that records which of its values are read."""

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        reads, prefix = self.__dict__.get("_record", (None, ""))
        if reads is not None and not isinstance(value, CfgNode):
            reads.add(prefix + name)
        return value


def recording(node: CfgNode, reads: Reads, prefix: str = "") -> RecordingNode:
    copy = RecordingNode(node, new_allowed=node.is_new_allowed())
    for name, value in node.items():
        if isinstance(value, CfgNode):
            dict.__setitem__(copy, name, recording(value, reads, f"{prefix}{name}."))
    copy.__dict__["_record"] = (reads, prefix)
    return copy


def is_unread(key: str, cfg: CfgNode) -> bool:
    sections = unread_sections(cfg)
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def other_value(value: Any) -> Any:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return value * 2 if len(value) else type(value)(("x",))


@pytest.fixture(scope="module")
def reads(tiny_text, tmp_path_factory) -> Reads:
    """Keys that a step of training and an evaluation read."""
    from hipie.data.datasets import register_all

    folder = tmp_path_factory.mktemp("recorded")
    options = [
        *("MODEL.DEVICE", "cpu", "MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "SOLVER.MAX_ITER", 1),
        *("DATASETS.TRAIN", ("picturebook_train_panoptic",), "DATALOADER.DATASET_BATCH_SIZE", ()),
        *("DATASETS.TEST", ("picturebook_val_panoptic",)),
        *("OUTPUT_DIR", str(folder / "run"), "PICTUREBOOK.ROOT", str(folder / "book")),
    ]
    cfg = model_zoo.get_config(str(ROOT / "tests/tiny.yaml"), options)
    reads = Reads()
    cfg = recording(cfg, reads)
    register_all(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    plain = get_cfg()
    add_hipie_config(plain)
    register_all(plain)
    return reads


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return model_zoo.get_config(str(ROOT / "tests/tiny.yaml"))


@pytest.mark.parametrize("key", list(keys(get_cfg())))
def test_every_key_is_read_or_named_when_changed(reads: Reads, cfg: CfgNode, key: str) -> None:
    if not is_unread(key, cfg):
        condition = CONDITIONAL.get(key)
        assert key in reads or (
            condition and (not condition[0] or not is_unread(condition[0], cfg))
        )
        return
    assert key not in reads
    changed = cfg.clone()
    *path, name = key.split(".")
    node = reduce(getattr, path, changed)
    setattr(node, name, other_value(getattr(node, name)))
    # This value of hipie_r50.yaml is inherited by the files of other backbones.
    expected = [] if key == "MODEL.RESNETS.STRIDE_IN_1X1" else [key]
    assert list(changed_unread_keys(changed)) == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_files_change_no_key_without_effect(file: Path) -> None:
    assert list(changed_unread_keys(model_zoo.get_config(str(file)))) == []


def test_one_warning_names_all_of_them(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    changed = cfg.clone()
    changed.merge_from_list(["VIS_PERIOD", 20, "INPUT.CROP.ENABLED", True, "SOLVER.GAMMA", 0.5])
    with caplog.at_level(logging.WARNING, "hipie"):
        warn_about_unread_keys(changed)
    assert [record.getMessage() for record in caplog.records] == [
        "2 keys of Detectron2 differ from the default and have no effect here: "
        "INPUT.CROP.ENABLED (True), VIS_PERIOD (20)"
    ]


def test_keys_of_the_backbone_and_of_other_architectures_count_as_read(cfg: CfgNode) -> None:
    changed = cfg.clone()
    changed.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "MODEL.FPN.NORM", "GN"])
    assert set(changed_unread_keys(changed)) == {"MODEL.RESNETS.DEPTH", "MODEL.FPN.NORM"}
    changed.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    assert list(changed_unread_keys(changed)) == []
    changed.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    changed.MODEL.RPN.CONV_DIMS = [8]
    assert list(changed_unread_keys(changed)) == []
