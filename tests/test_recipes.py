"""Recipes: what every shipped configuration starts a training from, and what stays random.

Models are built at full size on the meta device. The released files are stand-ins with the names
and shapes of the real ones, from the networks that their authors published.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

import hipie.checkpoint.load
import hipie.engine.pretrained_encoders
from hipie import model_zoo
from hipie.checkpoint import Checkpointer, LoadReport
from hipie.engine.freezing import parameters_as_built
from hipie.engine.pretrained_encoders import (
    check_pretrained_encoders,
    load_text_encoder,
    random_encoders,
)

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for path in (*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/*/configs/**/*.yaml"))
    if not path.name.startswith("Base-")
)
TRAINED_ARCHITECTURES = ("HIPIE", "ReferSAM", "GRSer")
# Recipes that start from an encoder's released weights: the model's name, with options.
ENCODERS = {
    "hipie_r50_pretrain": "r50",
    "hipie_swin_l_pretrain": "swin-l",
    "hipie_swin_t_pretrain": "swin-t",
    "hipie_vit_h_pretrain": "mae-vit-h-p16?matching_heuristics=True",
    "refersam_vit_b": "sam-vit-b",
    "refersam_vit_l": "sam-vit-l",
    "refersam_vit_h": "sam-vit-h",
    "grser_swin_b": "swin-b",
    "lavt_swin_b": "swin-b",
}
# Arms of the ablation of joint training.
ARMS = dict.fromkeys(
    (
        "hipie_r50_one_decoder",
        "hipie_r50_only_parts",
        "hipie_r50_only_referring",
        "hipie_r50_only_stuff",
        "hipie_r50_only_things",
    ),
    "r50",
)
# Further stages, and the recipe whose OUTPUT_DIR has their weights.
STAGES = {
    "hipie_r50_joint": "hipie_r50_pretrain",
    "hipie_r50_joint_parts": "hipie_r50_pretrain",
    "hipie_r50_parts": "hipie_r50_joint",
    "hipie_vit_h_joint": "hipie_vit_h_pretrain",
    "hipie_vit_h_joint_parts": "hipie_vit_h_pretrain",
    "hipie_vit_h_parts": "hipie_vit_h_joint",
}
# Architectures as they were published, for evaluation and as bases of recipes.
WITHOUT_WEIGHTS = ("hipie_r50", "hipie_vit_h", "hipie_swin_t", "hipie_swin_l")
# In an encoder, what its released weights do not have: Detectron2's norms of a Swin's features, a
# ViT's relative positions and pyramid.
RANDOM_IN_ENCODERS = {
    "r50": r"",
    "swin-l": r"backbone\.norm\d\.\w+",
    "swin-t": r"backbone\.norm\d\.\w+",
    "swin-b": r"",
    "mae-vit-h-p16": r"backbone\.(blocks\.\d+\.attn\.rel_pos_[hw]|finer\.\w+)",
    "sam-vit-b": r"",
    "sam-vit-l": r"",
    "sam-vit-h": r"",
}


def published_recipe(path: Path) -> str:
    """The recipe whose start a file has: of a training set or an ablation, the model's own."""
    name = path.stem
    if path.parent.name == "ablations":
        return {"refersam": "refersam_vit_b", "grser": "grser_swin_b"}[name.partition("_")[0]]
    for prefix in ("refersam_vit_b", "grser_swin_b"):
        if name.startswith(prefix):
            return prefix
    return name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_names_what_it_starts_from(path: Path) -> None:
    cfg = model_zoo.get_config(str(path))
    if cfg.MODEL.META_ARCHITECTURE not in TRAINED_ARCHITECTURES:
        return
    name, weights = published_recipe(path), cfg.MODEL.WEIGHTS
    if path.parent.name == "eval" or name in WITHOUT_WEIGHTS:
        assert not weights
    elif name in ENCODERS or name in ARMS:
        assert weights == f"hipie://{({**ENCODERS, **ARMS})[name]}"
        assert cfg.MODEL.TEXT_ENCODER_WEIGHTS == "hipie://bert-base-uncased"
        assert cfg.MODEL.REQUIRE_PRETRAINED
        assert model_zoo.trained_weights(cfg) == ""
    elif name in STAGES:
        before = model_zoo.get_config(f"universal/{STAGES[name]}.yaml")
        assert weights == f"{before.OUTPUT_DIR}/model_final.pth"
        assert cfg.MODEL.REQUIRE_PRETRAINED and not cfg.MODEL.TEXT_ENCODER_WEIGHTS
    else:
        # Small models: text encoder and backbone of installed packages, or packaged weights.
        node = cfg.MODEL[
            {"ReferSAM": "REFERSAM", "GRSer": "GRSER"}.get(cfg.MODEL.META_ARCHITECTURE, "HIPIE")
        ]
        assert node.TEXT.SOURCE == "minilm"
        if cfg.MODEL.META_ARCHITECTURE != "ReferSAM":
            assert cfg.MODEL.TIMM.WEIGHTS == "package"
        packaged = weights.removeprefix("hipie://")
        assert not weights or packaged in model_zoo.packaged_models() or (ROOT / weights).is_file()


@pytest.mark.parametrize("recipe", ENCODERS)
def test_released_weights_set_the_encoders(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, model, report = started(recipe, monkeypatch)
    assert random_encoders(model, report) == {}
    check_pretrained_encoders(cfg, model, report)
    source = ENCODERS[recipe].partition("?")[0]
    encoders = re.compile(
        r"(backbone|image_encoder|text_encoder|prompt_encoder|mask_decoder|lavt\.encoder\.backbone)\..+"
    )
    random = {name for name in parameters_as_built(model, report) if encoders.fullmatch(name)}
    expected = re.compile(RANDOM_IN_ENCODERS[source])
    assert {name for name in random if not expected.fullmatch(name)} == set()
    assert bool(random) == bool(RANDOM_IN_ENCODERS[source])


@pytest.mark.parametrize("recipe", ["hipie_r50_pretrain", "refersam_vit_b"])
def test_recipe_without_its_weights_is_refused(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, model, report = started(recipe, monkeypatch, text=False)
    with pytest.raises(ValueError, match=r"REQUIRE_PRETRAINED is True.* of text_encoder \(100%\)"):
        check_pretrained_encoders(cfg, model, report)
    with pytest.raises(ValueError, match=r"(\w+_encoder|backbone) \(\d+%\) and \w+_encoder"):
        check_pretrained_encoders(cfg, model, None)


def started(
    recipe: str, monkeypatch: pytest.MonkeyPatch, text: bool = True
) -> tuple[CfgNode, nn.Module, LoadReport]:
    """Configuration and model of a recipe with the weights that its training starts from."""
    (file,) = [path for path in FILES if path.stem == recipe]
    cfg = model_zoo.get_config(str(file))
    cfg.MODEL.DEVICE = "meta"
    linspace = torch.linspace
    # Rates of stochastic depth are read as numbers.
    monkeypatch.setattr(torch, "linspace", lambda *a, **k: linspace(*a, **{"device": "cpu", **k}))
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        files = {
            cfg.MODEL.WEIGHTS: released(ENCODERS[recipe].partition("?")[0]),
            cfg.MODEL.TEXT_ENCODER_WEIGHTS: {"model": bert()},
        }
    monkeypatch.setattr(hipie.checkpoint.checkpointer, "read_state", lambda path: dict(files[path]))
    monkeypatch.setattr(
        hipie.engine.pretrained_encoders, "read_state", lambda path: dict(files[path])
    )
    monkeypatch.setattr(hipie.checkpoint.load, "_is_finite", lambda value: True)
    # All tensors of the meta device have the same address.
    monkeypatch.setattr(hipie.checkpoint.load, "storage_key", lambda value: (id(value),))
    checkpointer = Checkpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    assert checkpointer.report is not None
    if text:
        load_text_encoder(cfg, model, checkpointer.report)
    return cfg, model, checkpointer.report


def released(name: str) -> dict[str, object]:
    """Content of a released file of weights, by the name of the model zoo."""
    if name == "r50":
        return {"model": resnet(), "matching_heuristics": True, "__author__": "torchvision"}
    if name.startswith("swin"):
        return {"model": swin(name[-1])}
    if name.startswith("mae"):
        return {"model": mae_vit_huge()}
    from segment_anything import sam_model_registry

    kind = name.removeprefix("sam-").replace("-", "_")
    return {"model": sam_model_registry[kind]().state_dict()}


def resnet() -> dict[str, Tensor]:
    from torchvision.models import resnet50

    from tests.checkpoint.test_resnet_start import zoo_name

    return {zoo_name(name): value for name, value in resnet50().state_dict().items()}


def swin(size: str) -> dict[str, Tensor]:
    """A Swin of the authors: patches, blocks, mergings, the last norm and the classifier."""
    from detectron2.modeling.backbone import SwinTransformer

    width, depths, heads, window = {
        "t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
        "b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
        "l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    }[size]
    network = SwinTransformer(embed_dim=width, depths=depths, num_heads=heads, window_size=window)
    state = {
        name: value
        for name, value in network.state_dict().items()
        if not re.fullmatch(r"norm\d\..+", name)
    }
    classifier = {"norm.weight": torch.empty(8 * width), "norm.bias": torch.empty(8 * width)}
    return {**state, **classifier, "head.weight": torch.empty(1000, 8 * width)}


def mae_vit_huge() -> dict[str, Tensor]:
    """The encoder of MAE's ViT-H, with patches of 16 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=1280, depth=32, num_heads=16, num_classes=0
    )
    return network.state_dict()


def bert() -> dict[str, Tensor]:
    """BERT with the heads of its training and the names of its release."""
    from transformers import BertConfig, BertForPreTraining

    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in BertForPreTraining(BertConfig()).state_dict().items():
        for new, released_name in old.items():
            name = name.replace(new, released_name)
        state[name] = value
    return state


# Images, or objects with expressions, of the public training sets.
SET_SIZES = {
    "objects365_v2_train_segm": 1_742_289,
    "coco_2017_train_panoptic_with_sem_seg": 118_287,
    "refcoco-mixed": 126_908,
    "pascal_parts_train": 4_998,
}


@pytest.mark.parametrize("stage", ["pretrain", "joint", "joint_parts", "parts"])
@pytest.mark.parametrize("model", ["hipie_r50", "hipie_vit_h"])
def test_passes_over_the_sets_are_those_of_the_documentation(model: str, stage: str) -> None:
    cfg = model_zoo.get_config(f"universal/{model}_{stage}.yaml")
    ratios = cfg.DATALOADER.DATASET_RATIO or (1.0,) * len(cfg.DATASETS.TRAIN)
    images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    passes = [
        images * ratio / sum(ratios) / SET_SIZES[name]
        for name, ratio in zip(cfg.DATASETS.TRAIN, ratios, strict=True)
    ]
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `hipie_*_{stage}.yaml`")]
    _, _, batch, iterations, described, _ = (cell.strip() for cell in row.split("|"))
    assert batch == f"{cfg.SOLVER.IMS_PER_BATCH}"
    assert iterations == f"{cfg.SOLVER.MAX_ITER:,}"
    written = re.findall(r" (\d+\.\d)(?=,|$)", described)
    assert sorted(written) == sorted(f"{number:.1f}" for number in passes)
