"""HIPIE on other backbones and feature levels: training, evaluation, resuming, invalid keys."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model

from hipie.engine.trainer import Trainer
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary

SWIN = [
    *("MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.EMBED_DIM", 8),
    *("MODEL.SWIN.DEPTHS", (1, 1, 2, 1), "MODEL.SWIN.NUM_HEADS", (1, 2, 2, 4)),
    *("MODEL.SWIN.WINDOW_SIZE", 4),
]
RESNET = [
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
]
FPN = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", *RESNET, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
]
# Options, and the strides of the encoders' levels and of the lateral feature map.
LEVELS = {
    "swin": (SWIN, (8, 16, 32, 64), 8),
    "swin_res2": ([*SWIN, "MODEL.HIPIE.STUFF.LATERAL_FEATURE", "res2"], (8, 16, 32, 64), 4),
    "fpn": (
        [*FPN, "MODEL.HIPIE.IN_FEATURES", ("p3", "p4", "p5", "p6")],
        (8, 16, 32, 64),
        8,
    ),
    "four_levels": (
        [
            *("MODEL.HIPIE.IN_FEATURES", ("res2", "res3", "res4", "res5")),
            *("MODEL.HIPIE.NUM_FEATURE_LEVELS", 5),
        ],
        (4, 8, 16, 32, 64),
        4,
    ),
    "resnet_two_levels": (
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone", *RESNET),
            *("MODEL.HIPIE.IN_FEATURES", ("res4", "res5"), "MODEL.HIPIE.NUM_FEATURE_LEVELS", 2),
        ],
        (16, 32),
        16,
    ),
}
VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])
# Unequal, and no multiples of 32.
SIZES = [(70, 98), (64, 77)]


def inputs() -> list[dict]:
    return [{"image": 255 * torch.rand(3, *size), "vocabulary": VOCABULARY} for size in SIZES]


@pytest.mark.parametrize("name", LEVELS)
def test_levels_and_masks_have_their_strides(tiny_cfg, name):
    options, strides, _ = LEVELS[name]
    tiny_cfg.merge_from_list([*options, "MODEL.HIPIE.PAD_AT_TEST", False])
    model = build_model(tiny_cfg).eval()
    features = model.encode_images(inputs())
    height, width = features.canvas_size
    needs_padding = model.backbone.size_divisibility > 1
    expected = (96, 128) if needs_padding else (72, 104) if "res2" in name else (70, 98)
    assert (height, width) == expected
    assert features.things.sizes == tuple((-(-height // s), -(-width // s)) for s in strides)
    raw = model.predict_raw(inputs())
    for masks in (raw.things.mask_logits, raw.stuff.mask_logits):
        # Maps are rounded up, so that their quarters may be a little larger than the canvas.
        assert all(
            math.ceil(side / 4) <= size <= math.ceil(side / max(strides)) * max(strides) // 4
            for side, size in zip((height, width), masks.shape[-2:])
        )
    assert raw.things.mask_logits.shape[-2:] == raw.stuff.mask_logits.shape[-2:]
    for result, size in zip(model(inputs()), SIZES):
        assert result["sem_seg"].shape == (4, *size)
        assert result["panoptic_seg"][0].shape == size
        assert result["instances"].image_size == size


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_reaches_both_branches(tiny_cfg, name):
    options, strides, lateral_stride = LEVELS[name]
    tiny_cfg.merge_from_list(options)
    model = build_model(tiny_cfg).eval()
    images = torch.rand(1, 3, 64, 96)
    maps = [features.detach().requires_grad_() for features in _stuff_maps(model, images)]
    for map_ in maps:
        map_.retain_grad()
    padding = torch.zeros(1, 64, 96, dtype=torch.bool)
    model.things.encode(model._project(maps, padding)).square().sum().backward()
    reached = [map_.grad is not None for map_ in maps]
    lateral = bool(model.lateral_feature)
    assert reached == [False] * lateral + [True] * len(model.in_features)
    levels, mask_features = model.stuff.pixel_decoder(maps)
    assert mask_features.shape[-2:] == (16, 24)
    assert levels.sizes == tuple((-(-64 // s), -(-96 // s)) for s in strides)[::-1]
    for map_ in maps:
        map_.grad = None
    mask_features.square().sum().backward()
    assert all(map_.grad.abs().sum() > 0 for map_ in maps)
    assert maps[0].shape[-2:] == (64 // lateral_stride, 96 // lateral_stride)


def _stuff_maps(model, images) -> list[torch.Tensor]:
    features = model.backbone(images)
    names = ([model.lateral_feature] if model.lateral_feature else []) + list(model.in_features)
    return [features[name] for name in names]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "swin_res2",
        pytest.param("fpn", marks=pytest.mark.slow),
        pytest.param("four_levels", marks=pytest.mark.slow),
    ],
)
def test_trains_evaluates_and_resumes(tiny_cfg, tmp_path, name):
    """Two steps with an evaluation equal one step, and another one with new objects."""
    options, _, _ = LEVELS[name]
    tiny_cfg.merge_from_list(
        [
            *(*options, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,), "SOLVER.CHECKPOINT_PERIOD", 1),
            *("DATASETS.TRAIN", ("picturebook_train_panoptic",)),
            *("DATASETS.TEST", ("picturebook_val_panoptic",)),
            *("DATALOADER.DATASET_BATCH_SIZE", (2,), "PICTUREBOOK.VAL_PAGES", 1),
        ]
    )

    def run(folder: str, steps: int, resume: bool) -> Trainer:
        tiny_cfg.OUTPUT_DIR = str(tmp_path / folder)
        torch.manual_seed(0)
        trainer = Trainer(tiny_cfg)
        trainer.resume_or_load(resume)
        trainer.max_iter = steps
        trainer.train()
        return trainer

    torch.manual_seed(0)
    before = weights(Trainer(tiny_cfg))
    whole = run("whole", 2, False)
    tiny_cfg.DATASETS.TEST = ()
    run("resumed", 1, False)
    resumed = run("resumed", 2, True)
    assert resumed.start_iter == 1
    for key, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    after = weights(whole)
    moved = {key.split(".")[0] for key in after if (after[key] != before[key]).any()}
    assert {"backbone", "things", "stuff"} <= moved
    results = whole._last_eval_results["picturebook_val_panoptic"]
    assert results.keys() >= {"panoptic_seg", "segm", "bbox", "sem_seg"}
    assert 0 <= results["sem_seg"]["mIoU"] <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.HIPIE.IN_FEATURES", ("p3",)], r'IN_FEATURES names "p3"; build_timm.* res2, res3'),
        (["MODEL.HIPIE.IN_FEATURES", ()], r"MODEL\.HIPIE\.IN_FEATURES is empty"),
        (["MODEL.HIPIE.IN_FEATURES", ("res4", "res3")], r"strides \[16, 8\]; .* the finest first"),
        (["MODEL.HIPIE.STUFF.LATERAL_FEATURE", "res3"], r"LATERAL_FEATURE .* \[8, 8, 16, 32\]"),
        (["MODEL.HIPIE.STUFF.LATERAL_FEATURE", "res1"], r'STUFF\.LATERAL_FEATURE names "res1"'),
        (["MODEL.HIPIE.NUM_FEATURE_LEVELS", 2], r"NUM_FEATURE_LEVELS is 2; .* at least 3 with"),
        (
            ["MODEL.HIPIE.IN_FEATURES", ("res2",), "MODEL.HIPIE.NUM_FEATURE_LEVELS", 1],
            r"NUM_FEATURE_LEVELS is 1; .* at least 2",
        ),
    ],
)
def test_features_that_cannot_be_used_are_named(tiny_cfg, options, message):
    tiny_cfg.merge_from_list(options)
    with pytest.raises(InputError, match=message):
        build_model(tiny_cfg)
