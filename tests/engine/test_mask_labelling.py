"""Evaluation of parts with SAM's or the true masks."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.evaluation.evaluator import inference_context
from torch import nn

from hipie.config.loading import ConfigError, check
from hipie.data.datasets import register_all
from hipie.engine.mask_labelling import MaskLabelledModel, label_map, with_mask_source
from hipie.engine.trainer import Trainer
from hipie.evaluation import build_evaluator

DATASET = "picturebook_val_parts"


class FixedScores(nn.Module):
    """The same semantic scores for every image."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return [{"sem_seg": self.scores} for _ in batched_inputs]


class PlantedModel(nn.Module):
    """Semantic scores of the annotated label maps, with noise that changes most pixels."""

    def __init__(self, num_classes: int, label_maps: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.num_classes, self.label_maps = num_classes, label_maps

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        (item,) = batched_inputs
        assert item["results"] == ("sem_seg",)
        labels = torch.from_numpy(self.label_maps[item["file_name"]].astype(np.int64))
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(self.num_classes, *labels.shape, generator=generator)
        annotated = nn.functional.one_hot(labels, self.num_classes + 1)[..., 1:]
        return [{"sem_seg": scores + 0.4 * annotated.permute(2, 0, 1)}]


@pytest.mark.parametrize("seed", range(3))
def test_label_map_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, masks = rng.random((4, 5, 6)), rng.random((3, 5, 6)) < (0.2, 0.5, 0.8)[seed]
    masks[2] = False  # an empty mask changes nothing
    expected = scores.argmax(0)
    for mask in sorted(masks[:2], key=lambda mask: -mask.sum()):
        sums = [sum(scores[c, y, x] for y, x in np.argwhere(mask)) for c in range(4)]
        expected[mask] = int(np.argmax(sums))
    result = label_map(torch.from_numpy(scores), torch.from_numpy(masks))
    assert np.array_equal(result.labels.numpy(), expected)
    chosen = np.take_along_axis(scores, expected[None], 0)[0]
    np.testing.assert_allclose(result.scores.numpy(), chosen)
    np.testing.assert_allclose(result.totals.numpy(), scores.sum(0))


def test_without_masks_every_pixel_keeps_its_class() -> None:
    scores = torch.rand(3, 4, 5)
    result = label_map(scores, torch.zeros(0, 4, 5, dtype=torch.bool))
    assert torch.equal(result.labels, scores.argmax(0))


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.DATASETS.TEST = (DATASET,)
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    register_all(tiny_cfg)
    return tiny_cfg


def test_true_masks_are_the_ceiling(cfg) -> None:
    """Scores that are noisy at pixels are right in sums over the annotated masks."""
    from hipie.data.annotation_maps import read_class_map
    from hipie.data.record_list import read_records

    records = list(read_records(DATASET))[:3]
    maps = {r["file_name"]: read_class_map(r["part_seg_file_name"]) for r in records}
    evaluator = build_evaluator(cfg, DATASET)
    model = PlantedModel(len(evaluator._names), maps)
    cfg.TEST.PART_MASKS = "ground_truth"
    labelled = with_mask_source(cfg, model, DATASET)
    scores = {}
    for name, evaluated in (("own", model), ("true", labelled)):
        evaluator.reset()
        for record in records:
            item = {**record, "results": ("sem_seg",)}
            evaluator.process([item], evaluated([item]))
        scores[name] = evaluator.evaluate()["parts"]["mIoU"]
    assert scores["true"] == pytest.approx(100) and scores["own"] < 60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masks_of_sam_are_those_of_its_generator(cfg, monkeypatch, precision: str) -> None:
    pytest.importorskip("segment_anything")
    from hipie.data.image_io import read_record_image
    from hipie.data.record_list import read_records
    from hipie.modeling.sam import automatic_masks as module
    from hipie.modeling.sam.predictor import Sam

    # A network with random weights has no masks that pass the filters.
    options = {"pred_iou_thresh": -10.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    propose = partial(module.automatic_masks, points_per_side=3, **options)
    monkeypatch.setattr(module, "automatic_masks", propose)
    cfg.TEST.PART_MASKS, cfg.TEST.SAM, cfg.MODEL.DEVICE = "sam", "random:tiny", "cpu"
    record = next(iter(read_records(DATASET)))
    masks, _ = propose(Sam.from_source("random:tiny"), read_record_image(record))
    scores = torch.rand(5, record["height"], record["width"])
    own = FixedScores(scores)
    model = with_mask_source(cfg, own, DATASET)
    with torch.autocast("cpu", torch.bfloat16, precision == "bfloat16"):
        result = model([record])[0]["sem_seg_labels"]
    expected = label_map(scores, masks).labels
    assert len(masks) > 1 and not torch.equal(expected, scores.argmax(0))
    assert torch.equal(result.labels, expected)


def test_sam_without_its_package_is_named(cfg, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "hipie.modeling.sam.automatic_masks", None)
    cfg.TEST.PART_MASKS, cfg.TEST.SAM = "sam", "random:tiny"
    with pytest.raises(ModuleNotFoundError, match="^TEST.PART_MASKS sam needs the package seg"):
        with_mask_source(cfg, nn.Identity(), DATASET)


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_keeps_its_mode(mode: bool) -> None:
    model = nn.Dropout().train(mode)
    labelled = MaskLabelledModel(model, lambda item: torch.zeros(0, 1, 1))
    with inference_context(labelled):
        assert not model.training
    assert model.training is mode


def test_only_data_sets_of_parts_are_affected(cfg) -> None:
    model = nn.Identity()
    assert with_mask_source(cfg, model, DATASET) is model
    cfg.TEST.PART_MASKS = "ground_truth"
    assert with_mask_source(cfg, model, "picturebook_val_refer") is model
    assert isinstance(with_mask_source(cfg, model, DATASET), MaskLabelledModel)


def test_a_model_is_evaluated_with_true_masks(cfg) -> None:
    cfg.TEST.PART_MASKS = "ground_truth"
    model = Trainer.build_model(cfg).eval()
    results = Trainer.test(cfg, model)[DATASET]["parts"]
    assert 0 <= results["mIoU"] <= 100


def test_unusable_values_are_refused(cfg) -> None:
    cfg.TEST.PART_MASKS = "sam"
    with pytest.raises(ConfigError, match='TEST.PART_MASKS is "sam", but TEST.SAM names no model'):
        check(cfg)
    cfg.TEST.PART_MASKS = "mine"
    with pytest.raises(ConfigError, match="TEST.PART_MASKS is 'mine'"):
        check(cfg)
