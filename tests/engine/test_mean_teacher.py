"""Learning from images without annotation by a mean teacher."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from hipie.data.build import build_train_loader
from hipie.data.dataset_mappers.strong_augmentation import strongly_augmented
from hipie.engine.ema import ModelEMA
from hipie.engine.mean_teacher import MeanTeacher
from hipie.engine.trainer import Trainer
from hipie.errors import InputError

PANOPTIC = "picturebook_train_panoptic"
BURN_IN = 3


@pytest.fixture
def semi_cfg(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATALOADER.DATASET_BATCH_SIZE = (PANOPTIC,), (2,)
    tiny_cfg.DATASETS.LABELED_FRACTION = 0.5
    tiny_cfg.MODEL_EMA.ENABLED = True
    tiny_cfg.SEMI_SUPERVISED.ENABLED = True
    tiny_cfg.SEMI_SUPERVISED.BURN_IN_ITERS = BURN_IN
    tiny_cfg.SEMI_SUPERVISED.SCORE_THRESHOLD = 0.0
    tiny_cfg.DATASETS.TEST = ()
    return tiny_cfg


def test_images_without_annotation_come_after_the_burn_in(semi_cfg):
    """BURN_IN_ITERS; and a loader that starts later has the same batches."""
    loader = iter(build_train_loader(semi_cfg))
    batches = [next(loader) for _ in range(12)]
    without = [["unlabelled" in item for item in batch] for batch in batches]
    assert not any(map(any, without[:BURN_IN])) and any(map(all, without[BURN_IN:]))
    labelled = {item["file_name"] for batch in batches for item in batch if "tags" not in item}
    files = [
        {i["file_name"] for b in batches for i in b if ("unlabelled" in i) == u} for u in (0, 1)
    ]
    assert len(labelled) == 8 and not files[0] & files[1]
    resumed = next(iter(build_train_loader(semi_cfg, 7)))
    assert [i["image"].sum() for i in resumed] == [i["image"].sum() for i in batches[7]]
    item = next(item for batch in batches for item in batch if "unlabelled" in item)
    assert item["teacher_image"].shape == item["image"].shape
    assert not item["teacher_image"].equal(item["image"])


class Seer(nn.Module):
    """Model that finds two things, and stuff at the left; it notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls: list = []

    def forward(self, inputs):
        (item,) = inputs
        self.calls.append((self.training, self.weight.item(), item["image"]))
        height, width = item["height"], item["width"]
        things = Instances((height, width))
        things.pred_masks = torch.zeros(2, height, width, dtype=torch.bool)
        things.pred_masks[0, 2:5, 3:9] = True
        things.pred_masks[1, :2, :2] = True
        things.pred_classes, things.scores = torch.tensor([1, 0]), torch.tensor([0.9, 0.4])
        ids = torch.zeros(height, width, dtype=torch.long)
        ids[:, :4] = 7
        segments = [{"id": 7, "isthing": False, "category_id": 2}]
        return [{"instances": things, "panoptic_seg": (ids, segments)}]


def test_the_teacher_sees_the_weak_image_with_averaged_weights():
    model = Seer()
    ema = ModelEMA(model, 0.5)
    with torch.no_grad():
        model.weight += 8
    ema.update()
    weak, strong = torch.zeros(3, 10, 12), torch.ones(3, 10, 12)
    item = {"image": strong, "teacher_image": weak, "unlabelled": True, "vocabulary": ()}
    other = {"image": strong, "instances": "annotated"}
    annotated, untouched = MeanTeacher(model.train(), ema, 0.5, 0.5)([item, other])
    ((training, weight, seen),) = model.calls
    assert (training, weight) == (False, 4.0) and seen is weak
    assert model.training and model.weight.item() == 8 and untouched is other
    assert annotated["image"] is strong
    assert "unlabelled" not in annotated and "teacher_image" not in annotated
    found = annotated["instances"]
    assert found.gt_classes.tolist() == [1, 2]
    assert found.gt_boxes.tensor.tolist() == [[3, 2, 9, 5], [0, 0, 4, 10]]
    assert found.gt_scores.tolist() == pytest.approx([0.45, 0.5])


def test_strong_augmentation_depends_on_its_seed_only():
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, again, other = (strongly_augmented(image, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.rand(3).equal(expected)
    assert (first == again).all() and (first != other).any() and first.shape == image.shape


def test_a_training_with_a_teacher(semi_cfg):
    semi_cfg.SOLVER.MAX_ITER = 8
    trainer = Trainer(semi_cfg)
    trainer.resume_or_load(resume=False)
    annotate, taught = trainer._trainer.teacher, []

    def record(batch):
        result = annotate(batch)
        taught.extend(new for old, new in zip(batch, result, strict=True) if new is not old)
        return result

    trainer._trainer.teacher = record
    trainer.train()
    assert taught and any(len(item["instances"]) for item in taught)
    assert trainer._trainer.skipped_steps == 0


def test_a_teacher_needs_averaged_weights(semi_cfg):
    semi_cfg.MODEL_EMA.ENABLED = False
    with pytest.raises(InputError, match=r"SEMI_SUPERVISED.ENABLED needs MODEL_EMA.ENABLED"):
        Trainer(semi_cfg)
