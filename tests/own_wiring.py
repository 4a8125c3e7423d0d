"""How the effect of every key of this package is observed, see `tests/wiring.py`."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from itertools import islice
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_backbone
from torch import nn

from hipie.checkpoint import Checkpointer
from hipie.data import file_check
from hipie.data.build import build_train_loader
from hipie.data.datasets import register_all
from hipie.engine import trainer as trainer_module
from hipie.engine.lr_scheduler import build_lr_scheduler
from hipie.engine.mask_labelling import MaskLabelledModel, with_mask_source
from hipie.engine.optimizer import build_optimizer
from hipie.engine.precision import autocast_dtype
from hipie.engine.tracking import build_tracking_writers
from hipie.errors import HipieError
from hipie.modeling.meta_arch import build
from hipie.modeling.open_vocabulary import clip_ensemble
from hipie.modeling.sam.predictor import Sam
from hipie.modeling.text_encoder.base import TEXT_ENCODER_REGISTRY, build_text_encoder
from hipie.modeling.text_encoder.bert import BertTextEncoder
from tests.toy_trainer import ToyTrainer
from tests.wiring import WiredNode


@lru_cache(maxsize=4)
def _backbone(name: str) -> nn.Module:
    from detectron2.config import get_cfg

    from hipie import add_hipie_config

    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = name, "test_efficientnet"
    return build_backbone(cfg)


@TEXT_ENCODER_REGISTRY.register()
class OtherTextEncoder(BertTextEncoder):
    """The other value of MODEL.HIPIE.TEXT.ENCODER."""


_text_encoders: dict[str, Any] = {}


def _text_encoder(cfg: CfgNode) -> Any:
    """Text encoders are built once for each content of their keys."""
    text = cfg.MODEL.HIPIE.TEXT.dump()
    if text not in _text_encoders:
        _text_encoders[text] = build_text_encoder(cfg)
    return _text_encoders[text]


def model_arguments(cfg: CfgNode) -> Any:
    """Constructor arguments of HIPIE, its modules included."""
    with (
        patch.object(clip_ensemble, "require_clip", lambda model, weights: None),
        patch.object(build, "build_backbone", lambda cfg: _backbone(cfg.MODEL.BACKBONE.NAME)),
        patch.object(build, "build_text_encoder", _text_encoder),
    ):
        encoder = _text_encoder(cfg)
        with torch.device("meta"):  # values of parameters are not observed
            arguments = build.hipie_arguments(cfg)
    del arguments["backbone"]  # of other nodes
    del arguments["text_encoder"]
    return arguments, type(encoder), encoder.window, encoder.frozen, encoder.width, encoder.training


def optimization(cfg: CfgNode) -> Any:
    """Groups of the optimizer, its bound of gradients, learning rates and precision."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {name: nn.Linear(2, 2) for name in ("backbone", "text_encoder", "sampling_offsets", "head")}
    )
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    clipped = None
    if hasattr(optimizer, "clip_gradients"):
        optimizer.clip_gradients()
        clipped = [parameter.grad.clone() for parameter in model.parameters()]
    return (
        type(optimizer).__mro__,
        groups,
        rates,
        clipped,
        str(autocast_dtype(cfg, torch.device("cpu"))),
    )


_HIPIE = "MODEL.HIPIE"
_CLIP = (
    f"{_HIPIE}.CLIP.ENABLED",
    True,
    f"{_HIPIE}.CLIP.MODEL",
    "random:tiny",
    f"{_HIPIE}.CLIP.WEIGHTS",
    "",
)
_CLIP_KEYS = (
    "MODEL",
    "WEIGHTS",
    "ALPHA",
    "BETA",
    "ENSEMBLE",
    "THING_TEMPERATURE",
    "SCORE_POWERS",
    "MASK_FEATURES",
    "TRAIN_VOCABULARY",
)
_IMAGENET = (f"{_HIPIE}.PIXEL_HEAD.ENABLED", True, f"{_HIPIE}.IMAGENET.ENABLED", True)
_IMAGENET_KEYS = (
    "MODEL",
    "WEIGHTS",
    "SCALE",
    "ALPHA",
    "BETA",
    "TEMPERATURE",
    "NONE_SIMILARITY",
    "MIN_SIMILARITY",
    "TRAIN_VOCABULARIES",
    "TRAIN_NAMES",
)
_SEMI = ("SEMI_SUPERVISED.ENABLED", True)
_HUNGARIAN = (f"{_HIPIE}.LOSS.THING_MATCHER", "HungarianMatcher")
_THING_COSTS = ("CLASS", "BOX", "GIOU", "MASK", "DICE")

HIPIE_NODE = WiredNode(
    _HIPIE,
    model_arguments,
    values={
        "HIDDEN_DIM": 64,
        "IN_FEATURES": ("res4", "res5"),
        "SIZE_DIVISIBILITY": 64,
        "TEXT.ENCODER": "OtherTextEncoder",
        "TEXT.SOURCE": "minilm",
        "TEXT.WINDOW": 64,
        "THINGS.NUM_HEADS": 2,
        "STUFF.NUM_HEADS": 2,
        "THINGS.FUSION_EMBED_DIM": 64,
        "THINGS.FUSION_HEADS": 4,
        "THINGS.FUSION_LAYERS": (0, 1),
        "THINGS.MASK_HEAD": "dot_product",
        "THINGS.IOU_HEAD": False,
        "STUFF.LATERAL_FEATURE": "res2",
        "LOSS.THING_CRITERION": "StuffCriterion",
        "LOSS.STUFF_CRITERION": "ThingCriterion",
        "LOSS.THING_MATCHER": "HungarianMatcher",
        "LOSS.STUFF_MATCHER": "SimOTAMatcher",
        "LOSS.THING_TERMS": ("class_loss",),
        "LOSS.STUFF_TERMS": ("class_loss",),
        "TEST.TOKEN_POOLING": "max",
        "PIXEL_HEAD.STRIDE": 4,
        "TEST.NO_TARGET": 0.5,
        "CLIP.MODEL": "random:ViT-B-32",
        "CLIP.WEIGHTS": "laion2b_e16",
        "CLIP.ALPHA": (0.1, 0.2),
        "CLIP.BETA": (0.1, 0.2),
        "CLIP.ENSEMBLE": "add",
        "CLIP.MASK_FEATURES": "crops",
        "CLIP.TRAIN_VOCABULARY": "ade20k_150",
        "IMAGENET.MODEL": "tf_efficientnet_lite0",
        "IMAGENET.WEIGHTS": "published",
        "IMAGENET.BETA": 0.5,
        "IMAGENET.TRAIN_VOCABULARIES": ("ade20k_150",),
        "IMAGENET.TRAIN_NAMES": ("fox",),
    },
    options={
        "THINGS.FUSION_LAYERS": (f"{_HIPIE}.THINGS.ENCODER_LAYERS", 2),
        "THINGS.IOU_HEAD": (f"{_HIPIE}.LOSS.SUPERVISE_LAST_IOU", False),
        **{
            f"PIXEL_HEAD.{key}": (f"{_HIPIE}.PIXEL_HEAD.ENABLED", True)
            for key in ("ONLY", "CONTEXT", "STRIDE")
        },
        "PIXEL_HEAD.ONLY_READS_MASKS": (
            *(f"{_HIPIE}.PIXEL_HEAD.ENABLED", True),
            *(f"{_HIPIE}.PIXEL_HEAD.ONLY", True),
        ),
        "CLIP.ENABLED": _CLIP[2:],
        **{f"CLIP.{key}": _CLIP for key in _CLIP_KEYS},
        "IMAGENET.ENABLED": _IMAGENET[:2],
        **{f"IMAGENET.{key}": _IMAGENET for key in _IMAGENET_KEYS},
        **{f"LOSS.THING_COSTS.{key}": _HUNGARIAN for key in _THING_COSTS},
    },
    tested={
        "TEXT.MAX_TOKENS": "tests/data/test_build.py::"
        "test_captions_have_at_most_the_configured_tokens",
        "TEST.BACKGROUND_THRESHOLD": "tests/data/datasets/test_configured.py::"
        "test_what_no_class_claims_counts_as_background",
    },
)


def backbone(name: str) -> Any:
    """Function that builds the backbone of a name from a configuration."""

    def observe(cfg: CfgNode) -> Any:
        cfg = cfg.clone()
        cfg.MODEL.BACKBONE.NAME = name
        return build_backbone(cfg)

    return observe


def training_batches(cfg: CfgNode) -> Any:
    """First batches of the training loader, or the error in place of them."""
    register_all(cfg)
    torch.manual_seed(0)
    try:
        return [
            [
                (
                    item["image"],
                    item.get("expressions"),
                    item["instances"].gt_classes,
                    item["instances"].gt_masks.tensor,
                    item.get("ignored"),
                )
                for item in batch
            ]
            for batch in islice(build_train_loader(cfg), 6)
        ]
    except HipieError as error:
        return str(error)


def picture_book(cfg: CfgNode) -> Any:
    """Functions that draw and load the pages and groups of the picture book."""
    register_all(cfg)
    names = [name for name in DatasetCatalog.list() if name.startswith("picturebook_")]
    return {name: DatasetCatalog[name] for name in sorted(names)}


def checked_files(cfg: CfgNode) -> Any:
    """Data sets whose files are checked before a run."""
    register_all(cfg)
    checked: list[str] = []
    with (
        patch.object(file_check, "_check_dataset", lambda name, *_: checked.append(name)),
        patch.object(file_check, "_check_names", lambda *_: None),
    ):
        file_check.check_datasets(cfg)
    return checked


class _Trainer(ToyTrainer):
    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **parts: Any) -> Checkpointer:
        return Checkpointer(model, cfg.OUTPUT_DIR, **parts)


def trainer(cfg: CfgNode) -> Any:
    """What a trainer is made of: sharding, micro-batches, hooks, checkpointer, average, writers."""
    sharded: list[Any] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(trainer_module, "shard_model", lambda model, size: sharded.append(size)),
        patch.object(trainer_module, "check_sharding", lambda cfg: None),
        patch.object(trainer_module, "ShardedCheckpointer", Checkpointer),
    ):
        cfg = cfg.clone()
        cfg.OUTPUT_DIR, cfg.DATASETS.TEST = folder, ("a",)
        made = _Trainer(cfg)
        hooks = [
            (type(hook).__name__, _plain(hook), _plain(getattr(hook, "checkpointer", None)))
            for hook in made._hooks
        ]
        writers = [(type(w).__name__, _plain(w)) for w in build_tracking_writers(cfg)]
    average = None if made.ema is None else made.ema._update
    teacher = _plain(made._trainer.teacher)
    text = repr((sharded, made._trainer.accumulation_steps, hooks, writers, teacher))
    return text.replace(folder, "FOLDER"), made.checkpointer.exclude, average


def _plain(value: Any) -> dict[str, Any]:
    """Attributes that are numbers, texts or truth values, and no time."""
    attributes = getattr(value, "__dict__", {})
    kinds = bool | int | float | str
    return {n: v for n, v in attributes.items() if isinstance(v, kinds) and n != "_start_time"}


def evaluation(cfg: CfgNode) -> Any:
    """Whether an evaluation runs under autocast, and the hooks that follow it."""
    cfg = cfg.clone()
    cfg.DATASETS.TEST = ("a",)
    found: list[bool] = []

    def record(*_: Any) -> dict[str, Any]:
        found.append(torch.is_autocast_enabled("cpu"))
        return {}

    with (
        tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR,
        patch.object(trainer_module, "inference_on_dataset", record),
        patch.object(trainer_module, "RequestingLoader", lambda *_: None),
        patch.object(trainer_module, "print_csv_format", lambda *_: None),
        patch.object(trainer_module, "ResultsTable", MagicMock()),
        patch.object(trainer_module.Trainer, "build_test_loader", lambda *_: None),
    ):
        trainer_module.Trainer.test(cfg, nn.Linear(1, 1), [None])
    return found


def part_masks(cfg: CfgNode) -> Any:
    """How data sets of parts are evaluated, and the SAM that is loaded for it."""
    register_all(cfg)
    loaded: list[Any] = []

    def load(*source: str) -> Any:
        loaded.append(source)
        return MagicMock()

    with patch.object(Sam, "from_source", load):
        model = with_mask_source(cfg, nn.Identity(), "picturebook_val_parts")
    source = model.propose.__qualname__ if isinstance(model, MaskLabelledModel) else None
    return type(model), source, loaded


_SWIN = (
    "MODEL.SWIN.EMBED_DIM",
    8,
    "MODEL.SWIN.DEPTHS",
    (1, 1, 1, 1),
    "MODEL.SWIN.NUM_HEADS",
    (1, 1, 2, 2),
)
_VIT = (
    "MODEL.VIT.EMBED_DIM",
    32,
    "MODEL.VIT.DEPTH",
    4,
    "MODEL.VIT.NUM_HEADS",
    2,
    "MODEL.VIT.IMAGE_SIZE",
    128,
    "MODEL.VIT.PRETRAIN_IMAGE_SIZE",
    64,
    "MODEL.VIT.WINDOW_BLOCKS",
    (0, 2),
)
_SAM = ("TEST.PART_MASKS", "sam", "TEST.SAM", "vit_b")
_LSJ = ("INPUT.LSJ.PROBABILITY", 1.0, "INPUT.LSJ.SIZE", 64)
_FINETUNING = "tests/data/datasets/test_configured.py::test_a_model_takes_a_step_on_each_of_them"
_BROKEN = "tests/data/test_broken_images.py::test_faults_are_named_before_the_run_or_left_out"
_START = "tests/engine/test_pretrained_encoders.py::"

NODES = [
    HIPIE_NODE,
    WiredNode("MODEL.ACTIVATION_CHECKPOINTING", model_arguments),
    WiredNode(
        "MODEL.TIMM",
        backbone("build_timm_backbone"),
        values={"NAME": "tf_efficientnet_lite0", "WEIGHTS": "package"},
        options={"WEIGHTS": ("MODEL.TIMM.NAME", "tf_efficientnet_lite0")},
    ),
    WiredNode(
        "MODEL.SWIN",
        backbone("build_swin_backbone"),
        values={
            "EMBED_DIM": 16,
            "NUM_HEADS": (1, 1, 2, 4),
            "OUT_FEATURES": ("res3", "res4", "res5"),
        },
        options={"": _SWIN},
    ),
    WiredNode(
        "MODEL.VIT",
        backbone("build_vit_backbone"),
        values={
            "EMBED_DIM": 64,
            "NUM_HEADS": 4,
            "WINDOW_BLOCKS": (0, 1),
            "IMAGE_SIZE": 192,
            "PRETRAIN_IMAGE_SIZE": 128,
            "FEATURE_BLOCKS": (0, 1, 2),
        },
        options={"": _VIT},
    ),
    WiredNode(
        "MODEL.FREEZE",
        model_arguments,
        tested={
            "MODEL.FREEZE": "tests/engine/test_freezing.py::"
            "test_frozen_random_parameters_are_refused"
        },
    ),
    WiredNode(
        "MODEL.TEXT_ENCODER_WEIGHTS",
        model_arguments,
        tested={"MODEL.TEXT_ENCODER_WEIGHTS": _START + "test_released_text_weights_are_loaded"},
    ),
    WiredNode(
        "MODEL.REQUIRE_PRETRAINED",
        model_arguments,
        tested={
            "MODEL.REQUIRE_PRETRAINED": _START
            + "test_random_backbone_is_a_warning_and_in_recipes_an_error"
        },
    ),
    WiredNode("MODEL.PRECISION", evaluation, values={"MODEL.PRECISION": "bfloat16"}),
    WiredNode("MODEL.WEIGHTS_EXCLUDE", trainer, values={"MODEL.WEIGHTS_EXCLUDE": ("backbone.",)}),
    WiredNode(
        "SOLVER",
        lambda cfg: (optimization(cfg), trainer(cfg)),
        values={
            "AMP.PRECISION": "float16",
            "OPTIMIZER": "SGD",
            "MAX_GRAD_NORM": 0.5,
            "FSDP.ENABLED": True,
        },
        options={
            "AMP.PRECISION": ("SOLVER.AMP.ENABLED", True),
            "POLY_POWER": ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"),
            "FSDP.MIN_LAYER_PARAMETERS": ("SOLVER.FSDP.ENABLED", True),
        },
    ),
    WiredNode(
        "MODEL_EMA", trainer, options={"DECAY": ("MODEL_EMA.ENABLED", True)}, values={"DECAY": 0.9}
    ),
    WiredNode(
        "SEMI_SUPERVISED",
        trainer,
        options={"": ("MODEL_EMA.ENABLED", True), "SCORE_THRESHOLD": _SEMI, "WEIGHT": _SEMI},
        values={"SCORE_THRESHOLD": 0.5, "WEIGHT": 0.5},
        tested={
            "BURN_IN_ITERS": "tests/engine/test_mean_teacher.py::"
            "test_images_without_annotation_come_after_the_burn_in",
        },
    ),
    WiredNode(
        "TRACKING",
        trainer,
        values={"WRITERS": ()},
        tested={
            "PROJECT": "tests/engine/test_tracking.py::test_runs_get_all_scalars_and_end",
            "RUN_NAME": "tests/engine/test_tracking.py::test_runs_get_all_scalars_and_end",
        },
    ),
    WiredNode(
        "INPUT",
        training_batches,
        values={
            "EXPRESSION_FLIP_PROB": 1.0,
            "SQUARE_SIZE": 64,
            "MIN_PART_AREA": 400,
            "MAX_PIXELS": 100,
            "COPY_PASTE.PROBABILITY": 1.0,
            "COPY_PASTE.DATASETS": ("picturebook_train_parts",),
            "LSJ.PROBABILITY": 1.0,
            "LSJ.SIZE": 96,
            "LSJ.MIN_SCALE": 1.0,
        },
        options={
            "COPY_PASTE.DATASETS": ("INPUT.COPY_PASTE.PROBABILITY", 1.0),
            "LSJ.PROBABILITY": ("INPUT.LSJ.SIZE", 64),
            "LSJ.SIZE": _LSJ,
            "LSJ.MIN_SCALE": _LSJ,
            "LSJ.MAX_SCALE": _LSJ,
        },
        tested={
            "GENERALIZED_EXPRESSIONS": "tests/modeling/meta_arch/test_hipie.py::"
            "test_steps_on_expressions_without_target_lower_all_their_scores",
        },
    ),
    WiredNode(
        "DATALOADER",
        lambda cfg: (training_batches(cfg), checked_files(cfg)),
        values={"DATASET_RATIO": (1.0, 9.0, 1.0), "DATASET_BATCH_SIZE": (1, 2, 1)},
        tested={
            "PIN_MEMORY": "tests/data/test_build.py::test_batches_are_pinned_for_a_gpu_only",
            "PERSISTENT_WORKERS": "tests/data/test_build.py::"
            "test_workers_are_kept_between_two_passes",
            "SKIP_BROKEN": _BROKEN,
            "MAX_BROKEN": "tests/data/test_broken_images.py::"
            "test_more_broken_images_than_the_limit_end_the_run",
        },
    ),
    WiredNode(
        "DATASETS",
        training_batches,
        tested={
            **dict.fromkeys(
                ("COCO_FORMAT", "COCO_PANOPTIC", "SEMANTIC", "PARTS", "REFERRING", "GROUPS"),
                _FINETUNING,
            ),
            **dict.fromkeys(
                (
                    *("WEAK_LABELS.POINTS", "WEAK_LABELS.SCRIBBLE_PIXELS", "WEAK_LABELS.SEED"),
                    *("LABELED_FRACTION", "LABELED_FRACTION_SEED"),
                ),
                "tests/data/test_supervision.py::test_keys_of_what_is_derived_and_left_out",
            ),
            "SUPERVISION": "tests/data/test_supervision.py::test_entries_that_cannot_be_used",
            "HELD_OUT_CLASSES": "tests/data/test_held_out_classes.py::"
            "test_settings_that_cannot_be_kept",
            "MAX_ANNOTATION_BYTES": "tests/data/io/test_annotation_files.py::"
            "test_size_is_a_key_and_an_option_of_programs",
            "ALLOW_OUTSIDE_FILES": "tests/data/io/test_annotation_files.py::"
            "test_a_key_allows_names_outside_and_links_are_the_users",
        },
    ),
    WiredNode("PICTUREBOOK", picture_book, values={"ROOT": "another/folder"}),
    WiredNode(
        "IMPORTS",
        picture_book,
        tested={
            "IMPORTS": "tests/config/test_named_downloads.py::test_code_that_the_user_names_is_run"
        },
    ),
    WiredNode(
        "TEST",
        lambda cfg: (trainer(cfg), part_masks(cfg)),
        values={
            "BEST_CHECKPOINT_METRIC": "a/segm/AP",
            "PART_MASKS": "ground_truth",
            "SAM": "random:tiny",
            "SAM_WEIGHTS": "sam.pth",
        },
        options={"SAM": _SAM, "SAM_WEIGHTS": _SAM},
        tested={
            "BEST_CHECKPOINT_MODE": "tests/engine/test_best_checkpoint.py::"
            "test_mode_last_evaluation_and_nan",
            "FASTER_COCO_EVAL": "tests/evaluation/test_faster_coco_eval.py::"
            "test_missing_package_is_named",
            "LVIS_FIXED_AP": "tests/evaluation/test_lvis_evaluation.py::"
            "test_300_detections_of_an_image_count_unless_ap_is_fixed",
        },
    ),
]
