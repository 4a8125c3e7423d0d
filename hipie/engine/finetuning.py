"""Configurations that fine-tune a trained model on data sets of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.config.dataset_entries import ENTRY_FORMS
from hipie.config.loading import keys
from hipie.data.build import DEFAULT_TASK
from hipie.data.dataset_specification import DatasetSpecification, require_common_class
from hipie.data.datasets.configured import register_configured
from hipie.data.records import load_records
from hipie.errors import InputError
from hipie.modeling.meta_arch.base import meta_architecture

# Images that a training draws: this times the root of the number that there are. Of 25 images each
# is seen 80 times, of 400 20 times, of 6,400 five times.
IMAGES_PER_ROOT = 400
MAX_BATCH_CPU, MAX_BATCH_GPU = 4, 16
EVALUATIONS, MIN_PERIOD = 5, 20
WARMUP_SHARE, MIN_WARMUP, MAX_WARMUP = 0.05, 10, 500
# Random resizing and cropping of images that are not described by expressions.
JITTER_PROBABILITY, JITTER_SCALES = 0.5, (0.7, 1.5)
# Tasks of architectures, one of which is needed for a kind of data set.
_TASKS = {
    "COCO_FORMAT": ("universal",),
    "COCO_PANOPTIC": ("universal",),
    "SEMANTIC": ("universal",),
    "PARTS": ("parts",),
    "REFERRING": ("referring", "group"),
    "GROUPS": ("group", "referring"),
}
# Evaluator -> metric by which checkpoints are compared, "task/metric".
_METRICS = {
    "coco_panoptic_seg": "panoptic_seg/PQ",
    "sem_seg": "sem_seg/mIoU",
    "parts": "parts/mIoU",
    "refer": "refer/mIoU",
    "grefer": "grefer/gIoU",
    "refzom": "refzom/mIoU",
    "group": "group/mIoU",
}
# Keys that a configuration shows also where they are those of the model's.
_ALWAYS_WRITTEN = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
)


@dataclass(frozen=True)
class Schedule:
    """Lengths of a training.

    Attributes:
        batch: images of an iteration.
        iterations: a multiple of `period`.
        warmup: iterations.
        period: iterations between two evaluations and checkpoints.
    """

    batch: int
    iterations: int
    warmup: int
    period: int


def fit_schedule(images: int, max_batch: int, iterations: int | None = None) -> Schedule:
    """Return the schedule for a number of images.

    Small sets are repeated more often: `IMAGES_PER_ROOT` times the root of the number of images are
    drawn, five evaluations are evenly spaced, and a twentieth is warm-up.

    Args:
        images: of all training sets together.
        max_batch: largest batch.
        iterations: of the training; None = by the number of images.
    """
    batch = max(1, min(max_batch, images))
    expected = iterations or math.ceil(IMAGES_PER_ROOT * math.sqrt(images) / batch)
    period = max(math.ceil(expected / EVALUATIONS), min(MIN_PERIOD, expected))
    total = iterations or period * EVALUATIONS
    warmup = min(max(round(WARMUP_SHARE * total), MIN_WARMUP), MAX_WARMUP, max(total // 2, 1))
    return Schedule(batch, total, warmup, period)


def finetuning_config(
    base: CfgNode,
    train: Sequence[DatasetSpecification],
    test: Sequence[DatasetSpecification],
    chosen: Mapping[str, Any],
) -> CfgNode:
    """Return the configuration of a training that starts from a model.

    Data sets are registered and their records read, so that unusable ones are errors here.

    Args:
        base: of the model, with its weights.
        train: data sets to learn.
        test: data sets to evaluate on; the first one selects the best checkpoint.
        chosen: values of keys that the user sets, such as SOLVER.MAX_ITER.

    Raises:
        InputError: naming the data set that is used twice, cannot be read, has no class of the
            others, or is of a kind that the model does not learn.
    """
    cfg = base.clone()
    cfg.defrost()
    _set_datasets(cfg, train, test)
    register_configured(cfg)
    _require_tasks(cfg, [*train, *test])
    require_common_class(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    sizes = [_image_count(one.name) for one in train]
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda" and torch.cuda.is_available()
    largest = min(base.SOLVER.IMS_PER_BATCH, MAX_BATCH_GPU if on_gpu else MAX_BATCH_CPU)
    schedule = fit_schedule(
        sum(sizes),
        int(chosen.get("SOLVER.IMS_PER_BATCH") or largest),
        chosen.get("SOLVER.MAX_ITER"),
    )
    solver = cfg.SOLVER
    # As for a batch of another size with Adam: by the root of the ratio.
    solver.BASE_LR = float(
        f"{solver.BASE_LR * math.sqrt(schedule.batch / solver.IMS_PER_BATCH):.2g}"
    )
    solver.IMS_PER_BATCH = schedule.batch
    solver.MAX_ITER, solver.WARMUP_ITERS = schedule.iterations, schedule.warmup
    solver.LR_SCHEDULER_NAME, solver.STEPS = "WarmupCosineLR", ()
    solver.CHECKPOINT_PERIOD = schedule.period
    cfg.TEST.EVAL_PERIOD = schedule.period if test else 0
    cfg.TEST.BEST_CHECKPOINT_METRIC = best_metric(test[0].name) if test else ""
    cfg.MODEL_EMA.ENABLED = False
    cfg.MODEL.WEIGHTS_EXCLUDE = ()
    # A classifier is for names that were never trained; those of these data sets are.
    cfg.MODEL.HIPIE.IMAGENET.ENABLED = False
    _set_augmentation(cfg, train, sizes)
    return cfg


def _set_datasets(
    cfg: CfgNode, train: Sequence[DatasetSpecification], test: Sequence[DatasetSpecification]
) -> None:
    entries: dict[str, DatasetSpecification] = {}
    for one in (*train, *test):
        if one.name in entries and entries[one.name] != one:
            raise InputError(f'two different data sets have the name "{one.name}"')
        entries[one.name] = one
        if not one.key and one.name not in DatasetCatalog:
            raise InputError(
                f'there is no registered data set "{one.name}"; files are given as '
                "NAME=instances.json:images and the like, and --import registers sets of a module"
            )
    for key in ENTRY_FORMS:
        values = [list(one.entry) for one in entries.values() if one.key == key]
        cfg.DATASETS[key] = values
    cfg.DATASETS.TRAIN = tuple(dict.fromkeys(one.name for one in train))
    cfg.DATASETS.TEST = tuple(dict.fromkeys(one.name for one in test))


def _require_tasks(cfg: CfgNode, sets: Sequence[DatasetSpecification]) -> None:
    architecture = meta_architecture(cfg)
    tasks = architecture.tasks if architecture else frozenset()
    for one in sets:
        needed = _TASKS.get(one.key, ())
        if architecture and needed and not tasks.intersection(needed):
            raise InputError(
                f'the data set "{one.name}" is for the task {needed[0]}, which '
                f"{cfg.MODEL.META_ARCHITECTURE} does not have; name another --model"
            )


def _image_count(name: str) -> int:
    return len(load_records(name))


def best_metric(name: str) -> str:
    """Return the metric of a registered test set that selects the best checkpoint, or "".

    Args:
        name: of the set.
    """
    metadata = MetadataCatalog.get(name)
    evaluator = metadata.get("evaluator_type")
    if evaluator in ("coco", "lvis"):
        has_masks = any(
            entry.get("segmentation")
            for record in load_records(name)
            for entry in record.get("annotations", ())
        )
        return f"{name}/{'segm' if has_masks else 'bbox'}/AP"
    if evaluator not in _METRICS:
        return ""
    task, metric = _METRICS[evaluator].split("/")
    return f"{name}/{metadata.get('result_name') or task}/{metric}"


def _set_augmentation(
    cfg: CfgNode, train: Sequence[DatasetSpecification], sizes: Sequence[int]
) -> None:
    """Set the keys of loaders and mappers, and those that follow from the kinds of the sets."""
    cfg.DATALOADER.DATASET_RATIO = (
        tuple(round(math.sqrt(size / min(sizes)), 2) for size in sizes) if len(sizes) > 1 else ()
    )
    cfg.DATALOADER.DATASET_BATCH_SIZE = ()
    cfg.INPUT.COPY_PASTE.PROBABILITY, cfg.INPUT.COPY_PASTE.DATASETS = 0.0, ()
    metadata = [MetadataCatalog.get(one.name) for one in train]
    if any(one.get("task", DEFAULT_TASK) == DEFAULT_TASK for one in metadata):
        cfg.INPUT.COLOR_AUG_SSD = True
        cfg.INPUT.IGNORE_UNLABELLED = True
        jitter = cfg.INPUT.LSJ
        jitter.PROBABILITY = JITTER_PROBABILITY
        jitter.MIN_SCALE, jitter.MAX_SCALE = JITTER_SCALES
        jitter.SIZE = int(max(cfg.INPUT.MIN_SIZE_TRAIN))
    evaluators = {one.get("evaluator_type") for one in metadata}
    if evaluators & {"grefer", "refzom"}:
        cfg.INPUT.GENERALIZED_EXPRESSIONS = True
    if all(one.key == "SEMANTIC" for one in train):
        # Label maps train the stuff decoder only.
        cfg.MODEL.HIPIE.TEST.PANOPTIC_FROM_STUFF_DECODER_ONLY = True


def changed_values(base: CfgNode, cfg: CfgNode) -> dict[str, Any]:
    """Return the keys whose values differ from those of a base, as a tree of plain values.

    Those of the schedule are returned in any case.
    """
    tree: dict[str, Any] = {}
    known = set(keys(base))
    for key in keys(cfg):
        value = _value(cfg, key)
        is_same = key in known and _plain(_value(base, key)) == _plain(value)
        if is_same and key not in _ALWAYS_WRITTEN:
            continue
        *nodes, last = key.split(".")
        node = reduce(lambda below, name: below.setdefault(name, {}), nodes, tree)
        node[last] = _plain(value)
    return tree


def config_text(comment: Sequence[str], base_name: str, changed: Mapping[str, Any]) -> str:
    """Return a configuration file: comment, `_BASE_`, changed keys; lists are on one line each.

    Args:
        comment: lines.
        base_name: value of `_BASE_`.
        changed: tree of values.
    """
    content = {"_BASE_": base_name, **changed}
    lines = [f"# {line}" for line in comment]
    text = yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, width=10_000, allow_unicode=True
    )
    return "\n".join([*lines, text])


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(getattr, key.split("."), cfg)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value
