"""Configurations of GRSer: validity, effect of keys, and errors for invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from grser import GRSer, add_grser_config
from grser.build import build_components
from grser.modeling.criterion import LossConfig
from grser.modeling.triphasic_head import HeatmapConfig
from grser.postprocessing import InferenceConfig
from hipie import add_hipie_config
from hipie.config.loading import check, merge
from hipie.data.datasets import register_all

FOLDER = Path(__file__).parents[3] / "projects/GRSer/configs"
FILES = sorted(
    path
    for path in FOLDER.glob("**/*.yaml")
    if not path.name.startswith("Base-") and path.parent.name != "finetune"
)


def read(path: Path):
    cfg = get_cfg()
    add_hipie_config(cfg)
    add_grser_config(cfg)
    merge(cfg, path)
    check(cfg)
    return cfg


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configuration_is_valid(path):
    cfg = read(path)
    assert cfg.MODEL.META_ARCHITECTURE == "GRSer"
    assert cfg.INPUT.SQUARE_SIZE % 32 == 0 and cfg.INPUT.SQUARE_SIZE > 0
    assert not cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if "photos" in path.stem and not Path("datasets/photographs").is_dir():
        pytest.skip("needs the photographs of docs/photographs.md")
    register_all(cfg)
    registered = set(DatasetCatalog.list())
    assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= registered


@pytest.fixture
def nano(tiny_text):
    cfg = read(FOLDER / "grser_nano_picturebook.yaml")
    cfg.MODEL.GRSER.TEXT.SOURCE = str(tiny_text)
    return cfg


def test_keys_configure_the_heads(nano):
    keys = nano.MODEL.GRSER
    keys.GROUP_SIZE, keys.TIES, keys.NORM_EPS = 5, "order", 1e-3
    keys.REJECTION_WIDTH, keys.TEXT.POOLING = 24, "mean"
    model = GRSer(**build_components(nano))
    assert model.triphasic_head.heatmaps == HeatmapConfig(
        group_size=5, language_channel=True, ties="order", eps=1e-3
    )
    assert model.rejection_head.width == 24 and model.text_encoder.pooling == "mean"
    assert model.feature_level == 2
    assert model.lavt.encoder.widths == (24, 40, 112, 320)
    keys.HIERARCHIZER, keys.TIES = False, "difference"
    assert not GRSer(**build_components(nano)).triphasic_head.heatmaps.hierarchizer


def test_keys_configure_losses_and_inference(nano):
    keys = nano.MODEL.GRSER
    keys.LOSS.TRIPLET_WEIGHT, keys.LOSS.TRIPLET_MARGIN, keys.LOSS.MIRROR_WEIGHT = 2.0, 3.0, 4.0
    keys.LOSS.TRIPLET_NEGATIVES = False
    keys.TEST.MARGIN, keys.TEST.REJECT_NEGATIVES, keys.TEST.SOFT_MASKS = 0.25, False, True
    keys.TEST.REJECT_SINGLE_IMAGES, keys.IMAGES_PER_FORWARD = True, 3
    model = GRSer(**build_components(nano))
    assert model.criterion.config == LossConfig(
        mask_loss="bce_dice",
        triplet_weight=2.0,
        triplet_margin=3.0,
        triplet_negatives=False,
        mirror_weight=4.0,
        heatmap_weight=1.0,
    )
    assert model.inference_config == InferenceConfig(
        reject_negatives=False,
        reject_single_images=True,
        margin=0.25,
        soft_masks=True,
        images_per_forward=3,
    )


def test_decoder_norm_is_configurable(nano):
    kinds = {"BN": "BatchNorm2d", "SyncBN": "NaiveSyncBatchNorm", "FrozenBN": "FrozenBatchNorm2d"}
    for name, kind in kinds.items():
        nano.MODEL.GRSER.DECODER_NORM = name
        assert type(GRSer(**build_components(nano)).lavt.decoder.levels[0][1]).__name__ == kind
    nano.MODEL.DEVICE, nano.MODEL.GRSER.DECODER_NORM = "cuda", "SyncBN"
    assert (
        type(GRSer(**build_components(nano)).lavt.decoder.levels[0][1]).__name__ == "SyncBatchNorm"
    )


def test_lavt_has_no_group_modules(nano):
    nano.MODEL.GRSER.HEATMAPS = "none"
    model = GRSer(**build_components(nano))
    assert model.triphasic_head is None and model.rejection_head is None


def test_margin_of_training_is_that_of_the_test(nano):
    keys = nano.MODEL.GRSER
    keys.LOSS.TRIPLET_MARGIN, keys.TEST.MARGIN = 0.7, None
    model = GRSer(**build_components(nano))
    assert model.inference_config.margin == model.criterion.config.triplet_margin == 0.7
    nano.merge_from_list(["MODEL.GRSER.TEST.MARGIN", "0.5"])
    assert GRSer(**build_components(nano)).inference_config.margin == 0.5
    assert InferenceConfig().margin == LossConfig().triplet_margin
    swin = read(FOLDER / "grser_swin_b.yaml").MODEL.GRSER
    assert swin.TEST.MARGIN is None and LossConfig().triplet_margin == swin.LOSS.TRIPLET_MARGIN


def test_keys_configure_ranks_prefix_and_rejection(nano):
    keys = nano.MODEL.GRSER
    keys.RANKS, keys.TEXT.ANTI_PREFIX = "negative", "not"
    model = GRSer(**build_components(nano))
    assert model.triphasic_head.heatmaps.ranks == "negative"
    assert model.text_encoder.anti_prefix == "not" and model.rejection_head is not None
    keys.LOSS.TRIPLET_WEIGHT = 0.0
    assert GRSer(**build_components(nano)).rejection_head is None
    keys.HEATMAPS, keys.RANKS = "language", "both"
    assert GRSer(**build_components(nano)).triphasic_head.channels == 1 + 112


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"RANKS": "positive", "HEATMAPS": "language"}, ("RANKS", "HEATMAPS")),
        ({"RANKS": "positive", "HEATMAPS": "none"}, ("RANKS", "HEATMAPS")),
        ({"TEST.HEATMAPS": True, "HEATMAPS": "none"}, ("TEST.HEATMAPS", "HEATMAPS")),
        ({"RANKS": "negative", "HIERARCHIZER": False}, ("RANKS", "HIERARCHIZER")),
        ({"TIES": "order", "HEATMAPS": "language"}, ("TIES", "HEATMAPS")),
        ({"TIES": "order", "HIERARCHIZER": False}, ("TIES", "HIERARCHIZER")),
        ({"LOSS.MIRROR_WEIGHT": 0.0}, ("LOSS.HEATMAP_WEIGHT", "LOSS.MIRROR_WEIGHT")),
        ({"TEXT.ANTI_PREFIX": ""}, ("RANKS", "TEXT.ANTI_PREFIX")),
        (
            {"TEXT.ANTI_PREFIX": "", "RANKS": "positive"},
            ("LOSS.TRIPLET_WEIGHT", "TEXT.ANTI_PREFIX"),
        ),
        (
            {"TEXT.ANTI_PREFIX": "", "RANKS": "positive", "LOSS.TRIPLET_WEIGHT": 0.0},
            ("LOSS.MIRROR_WEIGHT", "TEXT.ANTI_PREFIX"),
        ),
        (
            {"LOSS.TRIPLET_WEIGHT": 0.0, "TEST.REJECT_SINGLE_IMAGES": True},
            ("TEST.REJECT_SINGLE_IMAGES", "LOSS.TRIPLET_WEIGHT"),
        ),
    ],
)
def test_keys_that_exclude_each_other_are_refused(nano, options, keys):
    nano.merge_from_list([x for k, v in options.items() for x in (f"MODEL.GRSER.{k}", v)])
    with pytest.raises(ValueError) as error:
        build_components(nano)
    assert all(f"MODEL.GRSER.{key} is" in str(error.value) for key in keys)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "BACKBONE",
            "resnet",
            r"MODEL\.GRSER\.BACKBONE is 'resnet'; it has to be swin_b or swin_t",
        ),
        ("HEATMAPS", "all", r"MODEL\.GRSER\.HEATMAPS is 'all'; it has to be ranked or pooled"),
        ("FEATURE_STAGE", 2, r"MODEL\.GRSER\.FEATURE_STAGE is 2; it has to be 3 or 4"),
        ("RANKS", "x", r"MODEL\.GRSER\.RANKS is 'x'; it has to be both or positive or negative"),
        ("GROUP_SIZE", 0, r"MODEL\.GRSER\.GROUP_SIZE is 0; it has to be at least 1"),
        ("TIES", "x", r"MODEL\.GRSER\.TIES is 'x'; it has to be difference or order"),
        ("DECODER_NORM", "LN", r"DECODER_NORM is 'LN'; it has to be BN or SyncBN or FrozenBN"),
        ("TEXT.POOLING", "max", r"TEXT\.POOLING is 'max'; it has to be cls or mean"),
        ("DROP_PATH", 2.0, r"MODEL\.GRSER\.DROP_PATH is 2\.0; it has to be from 0 to 1"),
        ("LOSS.TRIPLET_WEIGHT", -1.0, r"LOSS\.TRIPLET_WEIGHT is -1\.0; it has to be at least 0"),
        (
            "LOSS.CLASS_WEIGHTS",
            (1.0, 1.0, 1.0),
            r"LOSS\.CLASS_WEIGHTS is .* two non-negative numbers",
        ),
        ("LOSS.MASK", "l1", r"MODEL\.GRSER\.LOSS\.MASK is 'l1'; it has to be ce or bce_dice"),
    ],
)
def test_invalid_value_raises_an_error_with_its_key(nano, key, value, message):
    nano.merge_from_list([f"MODEL.GRSER.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_components(nano)


def test_backbone_that_is_no_efficientnet_raises_an_error(nano):
    nano.MODEL.TIMM.NAME, nano.MODEL.TIMM.WEIGHTS = "resnet18", ""
    with pytest.raises(ValueError, match="MODEL.TIMM.NAME: resnet18 is not an EfficientNet"):
        build_components(nano)


def test_norms_and_bias_tables_have_no_weight_decay(nano):
    model = GRSer(**build_components(nano))
    names = model.parameters_without_weight_decay()
    assert "lavt.encoder.norms.0.weight" in names and "lavt.decoder.levels.0.1.bias" in names
    assert (
        not {"triphasic_head.text_projection.weight", "lavt.encoder.fusions.0.query.bias"} & names
    )
    nano.MODEL.GRSER.BACKBONE = "swin_nano"
    tables = [
        n
        for n in GRSer(**build_components(nano)).parameters_without_weight_decay()
        if "bias_table" in n
    ]
    assert len(tables) == 5
