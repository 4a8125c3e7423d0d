"""The photo model against networks of a fixed set of classes, on the same photographs.

Every model of a set has the same backbone with ImageNet weights (timm's EfficientNet-Lite), the
same images and augmentation (without copy-paste), and the same number of core-minutes of training:
CPU time of its process with one thread. The evaluators are those of the photo model.

| model | sets | heads |
|---|---|---|
| `lraspp` | voc, camvid | torchvision's LR-ASPP, on strides 8 and 16 |
| `deeplabv3` | voc, camvid | torchvision's DeepLabV3, on stride 16 |
| `mask_rcnn` | animals6, coco | Detectron2's Mask R-CNN with FPN on strides 4 to 32 |
| `hipie` | all | configs/nano/hipie_nano_photos.yaml, trained on the set alone |
| `hipie_joint` | all | the same, trained on all sets: scores of --joint results.json |

    python benchmarks/photographs.py --minutes 20 [--models lraspp ...] [--sets voc ...]
    python benchmarks/photographs.py --minutes 20 --table      available results

An interrupted training continues at its last checkpoint; a model with results is not trained
again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.lraspp import LRASPP

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import arms
from hipie import model_zoo
from hipie.data.annotation_maps import read_class_map
from hipie.data.build import build_test_loader
from hipie.data.dataset_mappers.annotations import instance_masks, masks_to_instances
from hipie.data.dataset_mappers.color import distort_colors
from hipie.data.dataset_mappers.transforms import LargeScaleJitter, sample_augmentation
from hipie.data.datasets import register_all
from hipie.data.held_out_classes import vocabulary_of
from hipie.data.image_io import image_to_tensor, read_record_image
from hipie.data.label_values import background_index, transform_labels
from hipie.data.record_list import read_records
from hipie.evaluation import build_evaluator
from hipie.modeling.backbone.frozen_batch_norm import freeze_norms
from hipie.modeling.backbone.timm import TimmBackbone, freeze_up_to
from hipie.modeling.backbone.timm_checkpoint import read_timm_weights

CONFIGURATION = "configs/nano/hipie_nano_photos.yaml"
IGNORE_LABEL = 255
SECONDS_BETWEEN_CHECKPOINTS = 60.0
VOC_CLASSES = ("cat", "dog", "horse", "cow", "sheep", "person")
# Steps of the two trainings whose difference in CPU time is the time of a step.
PROBE_STEPS = (8, 24)


@dataclass(frozen=True)
class PhotoSet:
    """A set of photographs.

    Attributes:
        train: name of the training set.
        val: name of the set that models are evaluated on.
        metric: heading of the column.
        score: metric, from the results of the set's evaluator.
        models: models that are compared on it.
    """

    train: str
    val: str
    metric: str
    score: Callable[[dict[str, Any]], float]
    models: tuple[str, ...]


def mean_iou_of(classes: Sequence[str], results: dict[str, Any]) -> float:
    """Mean of the IoU of some classes, percent."""
    return float(np.mean([results["sem_seg"][f"IoU-{name}"] for name in classes]))


SEMANTIC_MODELS = ("lraspp", "deeplabv3", "hipie", "hipie_joint")
INSTANCE_MODELS = ("mask_rcnn", "hipie", "hipie_joint")
SETS = {
    "voc": PhotoSet(
        "photos_voc_train",
        "photos_voc_val",
        "mean IoU of six classes",
        lambda results: mean_iou_of(VOC_CLASSES, results),
        SEMANTIC_MODELS,
    ),
    "camvid": PhotoSet(
        "photos_camvid_train",
        "photos_camvid_val",
        "mIoU",
        lambda results: float(results["sem_seg"]["mIoU"]),
        SEMANTIC_MODELS,
    ),
    "animals6": PhotoSet(
        "photos_animals6_train",
        "photos_animals6_val",
        "mask AP50",
        lambda results: float(results["segm"]["AP50"]),
        INSTANCE_MODELS,
    ),
    "coco": PhotoSet(
        "photos_coco_train",
        "photos_coco_val",
        "mask AP50 of person",
        lambda results: float(results["segm"]["AP50-person"]),
        INSTANCE_MODELS,
    ),
}
MODELS = ("lraspp", "deeplabv3", "mask_rcnn", "hipie", "hipie_joint")


# Networks ---------------------------------------------------------------------------------------


class SegmentationBackbone(nn.Module):
    """Features of a timm network whose last stage has stride 16, as torchvision's heads take them.

    Norms and the first stages are frozen as in the photo model.

    Args:
        name: of the timm model.
        weights: see `TimmBackbone`.
        freeze_at: see `TimmBackbone`.
    """

    def __init__(self, name: str, weights: str, freeze_at: int) -> None:
        super().__init__()
        self.net = timm.create_model(name, features_only=True, output_stride=16)
        if weights:
            complete = timm.create_model(name, pretrained=False)
            state = read_timm_weights(complete.state_dict(), name, weights)
            flat = {key.replace(".", "_"): value for key, value in state.items()}
            self.net.load_state_dict(
                {key: flat[key.replace(".", "_")] for key in self.net.state_dict()}
            )
        info: Any = self.net.feature_info
        reduction = info.reduction()
        self.low, self.high = reduction.index(8), len(reduction) - 1
        self.channels = (info.channels()[self.low], info.channels()[self.high])
        default_cfg: Any = self.net.default_cfg
        freeze_norms(self.net, default_cfg["input_size"])
        freeze_up_to(self.net, info.module_name(reduction.index(2**freeze_at)))

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        """Compute `low` (stride 8), `high` and `out` (the same, stride 16) of [B, 3, H, W]."""
        features = self.net(pixels)
        high = features[self.high]
        return OrderedDict(low=features[self.low], high=high, out=high)


class SemanticNetwork(nn.Module):
    """A torchvision network with Detectron2's interface: a list of dicts of images.

    In training it returns the cross entropy over `labels` (int64 [H, W]); otherwise the scores of
    `num_classes` classes at the size of the original image.

    Args:
        network: maps [B, 3, H, W] to {"out": [B, K, H, W]}.
        mean: of an RGB image, 0..255.
        std: likewise.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), False)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute `{"cross_entropy": loss}` in training, else a list of dicts with `sem_seg`."""
        images = [(item["image"].float() - self.mean) / self.std for item in batched_inputs]
        if self.training:
            labels = torch.stack([item["labels"] for item in batched_inputs])
            logits = self.network(torch.stack(images))["out"]
            loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL)
            return {"cross_entropy": loss}
        outputs = []
        for image, item in zip(images, batched_inputs, strict=True):
            logits = self.network(image[None])["out"]
            size = (item["height"], item["width"])
            resized = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            outputs.append({"sem_seg": resized[0]})
        return outputs


def semantic_network(model: str, cfg: CfgNode, num_classes: int) -> SemanticNetwork:
    """Build `lraspp` or `deeplabv3`.

    Args:
        model: its name.
        cfg: reads MODEL.{TIMM, BACKBONE.FREEZE_AT, PIXEL_MEAN, PIXEL_STD}.
        num_classes: classes of the set, its background included.
    """
    timm_keys = cfg.MODEL.TIMM
    backbone = SegmentationBackbone(timm_keys.NAME, timm_keys.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT)
    low, high = backbone.channels
    network: nn.Module
    if model == "lraspp":
        network = LRASPP(backbone, low, high, num_classes)
    else:
        network = DeepLabV3(backbone, DeepLabHead(high, num_classes))
    return SemanticNetwork(network, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's feature pyramid on the backbone of `MODEL.TIMM`."""
    return FPN(
        bottom_up=TimmBackbone(cfg, input_shape),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )


def mask_rcnn(cfg: CfgNode, num_classes: int) -> nn.Module:
    """Build Detectron2's Mask R-CNN with FPN.

    Its settings are those of `mask_rcnn_R_50_FPN`, but for anchors of half the size and an eighth
    of the sampled boxes, since the images have a third of the usual length.

    Args:
        cfg: the photo model's; reads MODEL.{TIMM, BACKBONE.FREEZE_AT, PIXEL_MEAN, PIXEL_STD}.
        num_classes: of the set.
    """
    rcnn = get_cfg()
    rcnn.MODEL.TIMM = cfg.MODEL.TIMM.clone()
    rcnn.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.MASK_ON", True, "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"),
            *("MODEL.BACKBONE.FREEZE_AT", cfg.MODEL.BACKBONE.FREEZE_AT),
            *("MODEL.PIXEL_MEAN", list(cfg.MODEL.PIXEL_MEAN)),
            *("MODEL.PIXEL_STD", list(cfg.MODEL.PIXEL_STD)),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
            *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]),
            *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 2000, "MODEL.RPN.PRE_NMS_TOPK_TEST", 1000),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 1000, "MODEL.RPN.POST_NMS_TOPK_TEST", 300),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
            *("MODEL.ROI_HEADS.NUM_CLASSES", num_classes),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
            *("MODEL.ROI_BOX_HEAD.NUM_FC", 2, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 4, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
            *("INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB"),
        ]
    )
    return build_model(rcnn)


# Training ---------------------------------------------------------------------------------------


class TrainingImages:
    """Training images of a set, augmented as those of the photo model.

    Batch t depends on the seed and t only.

    Args:
        cfg: reads INPUT.{LSJ, MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, RANDOM_FLIP, COLOR_AUG_SSD}.
        dataset_name: of a set of label maps or of instances.
        batch_size: images of a batch.
        seed: determines all random numbers.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str, batch_size: int, seed: int) -> None:
        self.input = cfg.INPUT
        records = list(read_records(dataset_name))
        self.records = [r for r in records if "annotations" not in r or r["annotations"]]
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int) -> list[dict[str, Any]]:
        """Return the inputs of a step; every image occurs once before any occurs again."""
        count, items = len(self.records), []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, index = divmod(position, count)
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(count)
            items.append(self._item(self.records[order[index]], [self.seed, 2, position]))
        return items

    def _item(self, record: dict[str, Any], seed: Sequence[int]) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        image = read_record_image(record)
        height, width = image.shape[:2]
        jitter = self.input.LSJ
        augmentation = sample_augmentation(
            rng,
            height,
            width,
            min_sizes=self.input.MIN_SIZE_TRAIN,
            max_size=self.input.MAX_SIZE_TRAIN,
            flip=self.input.RANDOM_FLIP,
            jitter=LargeScaleJitter(
                jitter.PROBABILITY, jitter.MIN_SCALE, jitter.MAX_SCALE, jitter.SIZE
            ),
        )
        pixels = augmentation.transform.apply_image(image)
        if self.input.COLOR_AUG_SSD:
            pixels = distort_colors(rng, pixels)
        item = {
            "image": image_to_tensor(pixels, "RGB"),
            "height": height,
            "width": width,
            "image_id": record["image_id"],
        }
        return item | _ground_truth(record, height, width, augmentation.transform)


def _ground_truth(
    record: dict[str, Any], height: int, width: int, transform: T.Transform
) -> dict[str, Any]:
    """Return `labels` of a label map, or `instances` of annotations."""
    if "annotations" in record:
        masks, classes = instance_masks(record["annotations"], height, width, transform)
        return {"instances": masks_to_instances(masks, classes)}
    labels = read_class_map(record["sem_seg_file_name"])
    transformed = transform_labels(labels, transform, IGNORE_LABEL)
    return {"labels": torch.from_numpy(transformed.astype(np.int64))}


def learning_rate(used: float, budget: float, warm_up: float = 0.05, power: float = 0.9) -> float:
    """Return the factor of the learning rate: linear warm-up, then polynomial decay to 0.

    Args:
        used: CPU seconds of training so far.
        budget: CPU seconds of the training.
        warm_up: share of the budget.
        power: of the decay.
    """
    share = min(max(used / budget, 0.0), 1.0)
    return float(min(1.0, (share + 0.01) / (warm_up + 0.01)) * (1.0 - share) ** power)


def optimizer_of(model: nn.Module, rate: float, backbone_multiplier: float) -> torch.optim.AdamW:
    """Build AdamW with a lower rate for the backbone; parameters of one axis do not decay."""
    groups = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = "backbone" in name and "fpn" not in name
            groups.append(
                {
                    "params": [parameter],
                    "lr": rate * (backbone_multiplier if inside else 1.0),
                    "weight_decay": 0.05 if parameter.dim() > 1 else 0.0,
                }
            )
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.AdamW(groups)


def train(
    model: nn.Module,
    images: TrainingImages,
    options: argparse.Namespace,
    cfg: CfgNode,
    folder: Path,
) -> dict[str, float]:
    """Train for `options.minutes` core-minutes, from the last checkpoint of the folder.

    Returns:
        `steps`, `core_minutes`, and the mean losses `first_loss` and `last_loss` of a tenth of the
        steps each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pth"
    optimizer = optimizer_of(model, options.rate, cfg.SOLVER.BACKBONE_MULTIPLIER)
    losses: list[float] = []
    used, budget = 0.0, 60.0 * options.minutes
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses, used = state["losses"], state["seconds"]
    saved = used
    model.train()
    while used < budget:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate(used, budget)
        torch.manual_seed(hash((options.seed, len(losses))) % 2**31)
        # Detectron2's networks record their statistics in a storage.
        with EventStorage(len(losses)):
            terms = model(images.batch(len(losses)))
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.MAX_GRAD_NORM)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"{folder}: the loss of step {len(losses)} is not finite")
        used += time.process_time() - start
        if used - saved >= SECONDS_BETWEEN_CHECKPOINTS or used >= budget:
            saved = used
            partial = checkpoint.with_suffix(".partial")
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "losses": losses,
                "seconds": used,
            }
            torch.save(state, partial)
            os.replace(partial, checkpoint)
            print(f"{folder.name}: step {len(losses)}, {used:.0f} s, loss {losses[-1]:.3f}")
    tenth = max(1, len(losses) // 10)
    return {
        "steps": len(losses),
        "core_minutes": used / 60,
        "first_loss": float(np.mean(losses[:tenth])),
        "last_loss": float(np.mean(losses[-tenth:])),
    }


# Evaluation -------------------------------------------------------------------------------------


def named_scores(scores: Tensor, background: int | None) -> Tensor:
    """Return the scores that the evaluator takes, from those of all classes.

    The evaluator of a set with background takes scores of the other classes, and a pixel with
    scores below its threshold is background. Here the best class has 1, and the others 0.

    Args:
        scores: [K, H, W], background included.
        background: its index; None = there is none.
    """
    best = functional.one_hot(scores.argmax(0), len(scores)).permute(2, 0, 1).float()
    if background is None:
        return best
    return torch.cat([best[:background], best[background + 1 :]])


@torch.no_grad()
def evaluate(model: nn.Module, cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
    """Evaluate a model on a set with the evaluator of the photo model."""
    background = background_index(*_metadata_and_names(dataset_name))
    evaluator = build_evaluator(cfg, dataset_name)
    evaluator.reset()
    model.eval()
    for inputs in build_test_loader(cfg, dataset_name):
        outputs = model(inputs)
        if "sem_seg" in outputs[0]:
            outputs = [{"sem_seg": named_scores(o["sem_seg"], background)} for o in outputs]
        evaluator.process(inputs, outputs)
    return dict(evaluator.evaluate())


def _metadata_and_names(dataset_name: str) -> tuple[Any, Sequence[str]]:
    return MetadataCatalog.get(dataset_name), vocabulary_of(dataset_name).names


# Program ----------------------------------------------------------------------------------------


def folder_of(model: str, name: str, options: argparse.Namespace) -> Path:
    """Folder of a model's checkpoint and results."""
    backbone = options.backbone.rsplit("_", 1)[-1]
    return Path(options.output) / f"{name}-{model}-{backbone}-{options.minutes:g}min"


def run_model(model: str, name: str, options: argparse.Namespace) -> None:
    """Train and evaluate one model on one set, unless it has results."""
    folder = folder_of(model, name, options)
    if (folder / "row.json").is_file() or model == "hipie_joint":
        return
    if model == "hipie":
        row = run_hipie(name, options, folder)
    else:
        row = run_network(model, name, options, folder)
    (folder / "row.json").write_text(json.dumps(row, indent=1))


def run_network(model: str, name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and evaluate a network of torchvision or Detectron2."""
    cfg = configuration(options)
    photo_set = SETS[name]
    num_classes = len(vocabulary_of(photo_set.train).names)
    position = list(cfg.DATASETS.TRAIN).index(photo_set.train)
    batch_size = cfg.DATALOADER.DATASET_BATCH_SIZE[position]
    torch.manual_seed(options.seed)
    if model == "mask_rcnn":
        network = mask_rcnn(cfg, num_classes)
    else:
        network = semantic_network(model, cfg, num_classes)
    images = TrainingImages(cfg, photo_set.train, batch_size, options.seed)
    training = train(network, images, options, cfg, folder)
    results = evaluate(network, cfg, photo_set.val)
    return {**training, "score": photo_set.score(results), "results": results}


def run_hipie(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and evaluate the photo model on one set, as `train_net.py` does.

    The number of steps for the core-minutes follows from the CPU time of two short trainings.
    """
    cfg = configuration(options)
    photo_set = SETS[name]
    position = list(cfg.DATASETS.TRAIN).index(photo_set.train)
    folder.mkdir(parents=True, exist_ok=True)

    def call(steps: int, output: Path, *more: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        arms.call(
            [
                *(str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, "--resume"),
                *("OUTPUT_DIR", str(output.absolute()), "SOLVER.MAX_ITER", str(steps)),
                *("MODEL.TIMM.NAME", options.backbone, "SEED", str(options.seed)),
                *("DATASETS.TRAIN", f'("{photo_set.train}",)', "DATALOADER.DATASET_RATIO", "()"),
                *("DATALOADER.NUM_WORKERS", "0", "INPUT.COPY_PASTE.DATASETS", "()"),
                *("INPUT.COPY_PASTE.PROBABILITY", "0.0"),
                "DATALOADER.DATASET_BATCH_SIZE",
                f"({cfg.DATALOADER.DATASET_BATCH_SIZE[position]},)",
                *more,
            ],
            1,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    file = folder / "step.json"
    if not file.is_file():
        seconds = [
            call(steps, folder / f"probe{steps}", "DATASETS.TEST", "()") for steps in PROBE_STEPS
        ]
        file.write_text(json.dumps({"seconds": seconds_a_step(PROBE_STEPS, seconds)}))
    second = json.loads(file.read_text())["seconds"]
    steps = max(1, round(60 * options.minutes / second))
    decay = ("SOLVER.STEPS", f"({int(0.8 * steps)},)", "DATASETS.TEST", f'("{photo_set.val}",)')
    call(steps, folder, *decay)
    results = json.loads((folder / "results.json").read_text())[photo_set.val]
    curve = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in curve if "total_loss" in line]
    return {
        "steps": steps,
        "core_minutes": steps * second / 60,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "score": photo_set.score(results),
        "results": results,
    }


def seconds_a_step(steps: Sequence[int], seconds: Sequence[float]) -> float:
    """CPU seconds of one step, from two runs whose start and end take the same time."""
    return max((seconds[1] - seconds[0]) / (steps[1] - steps[0]), 1e-3)


def configuration(options: argparse.Namespace) -> CfgNode:
    """Return the photo model's configuration with its sets registered."""
    cfg = model_zoo.get_config(
        CONFIGURATION,
        ["MODEL.TIMM.NAME", options.backbone, "DATALOADER.NUM_WORKERS", 0, *options.opts],
    )
    register_all(cfg)
    return cfg


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of the table that have results."""
    found = []
    for name in options.sets:
        for model in SETS[name].models:
            if model not in options.models:
                continue
            file = folder_of(model, name, options) / "row.json"
            row: dict[str, Any] | None = None
            if model == "hipie_joint":
                joint = json.loads(Path(options.joint).read_text()) if options.joint else {}
                if SETS[name].val in joint:
                    row = {"score": SETS[name].score(joint[SETS[name].val])}
            elif file.is_file():
                row = json.loads(file.read_text())
            if row is not None:
                keys = ("steps", "core_minutes", "first_loss", "last_loss", "score")
                numbers = {key: row.get(key) for key in keys}
                metric = SETS[name].metric
                found.append({"set": name, "metric": metric, "model": model, **numbers})
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Format rows as Markdown; a model of several sets has no steps of one of them."""
    lines = [
        "| set | metric | model | core-minutes | steps | loss, first and last tenth | score |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cells = [row["set"], row["metric"], row["model"]]
        if row["steps"] is None:
            cells += ["all sets jointly", "", ""]
        else:
            cells += [f"{row['core_minutes']:.1f}", str(row["steps"])]
            cells.append(f"{row['first_loss']:.2f}, {row['last_loss']:.2f}")
        lines.append("| " + " | ".join([*cells, f"{row['score']:.1f}"]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate the models that have no results, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="core-minutes of a training")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--backbone", default="tf_efficientnet_lite2", help="timm model")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the heads")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--joint", help="results.json of the photo model")
    parser.add_argument("--output", default="output/photographs")
    parser.add_argument("--table", action="store_true", help="print the table without training")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error("--minutes must be positive")
    torch.set_num_threads(1)
    if not options.table:
        for name in options.sets:
            for model in SETS[name].models:
                if model in options.models:
                    run_model(model, name, options)
    found = rows(options)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    text = table(found)
    (Path(options.output) / "table.json").write_text(json.dumps(found, indent=1))
    (Path(options.output) / "table.md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
