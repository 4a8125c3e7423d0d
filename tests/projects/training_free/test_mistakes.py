"""Errors for invalid input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from hipie import Segmenter, model_zoo
from hipie.errors import InputError
from hipie.modeling.clustering import kmeans_groups
from hipie.modeling.open_vocabulary.sliding_window import (
    SlidingWindowConfig,
    sliding_window_inference,
)
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free import GEM, SCLIP, GlobalLocalCLIP, MaskCLIP
from hipie_training_free.meta_arch import ClassificationConfig, InferenceConfig
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.dino_class_attention import attention_masks
from hipie_training_free.modeling.global_local_clip import mask_features
from hipie_training_free.modeling.tokencut import token_cut


def make_input(**overrides):
    image = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    return {"image": image, "vocabulary": Vocabulary.from_names(["dog", "cat"]), **overrides}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CLIP.MODEL", "ViT-B-61", 'no CLIP model "ViT-B-61"; similar names are .*ViT-B-16'),
        ("CLIP.MODEL", "random:tony", 'no CLIP model "tony"; similar names are tiny'),
        ("DINO.MODEL", "vit_smal_patch16_224.dino", "no DINO model .*vit_small_patch16_224"),
        ("TEMPLATES", "imagenets", 'templates "imagenets"; similar names are imagenet'),
        ("BACKGROUND", "1.5", "BACKGROUND is 1.5; it has to be in 0..1"),
        ("GEM.BLOCKS", "9", "9 last blocks are requested, and the image tower has 3"),
        ("REFERRING.PROPOSALS", "sum", 'kind of proposals "sum"; similar names are .*sam'),
        ("REFERRING.GLOBAL", "2.0", "REFERRING.GLOBAL is 2.0"),
        ("KMEANS.CLUSTERS", "0", "at least one cluster"),
        ("PAMR.STEPS", "-1", "PAMR needs 0 or more steps"),
        ("PAMR.DILATIONS", "(0, 8)", "distances of 1 or more pixels, and not 0 with .0, 8."),
        ("ATTENTION_MAS", "1", "similar names are MODEL.TRAINING_FREE.ATTENTION_MASS"),
        ("ATTENTION_MASS", "0.0", "share of the attention is 0.0"),
    ],
)
def test_invalid_configuration_raises_an_error(configs, key, value, message):
    method_of = {"GEM": "gem", "REFERRING": "global_local", "KMEANS": "kmeans", "DINO": "tokencut"}
    section = key.split(".")[0]
    method = (
        "class_attention" if section.startswith("ATTENTION") else method_of.get(section, "maskclip")
    )
    options = [f"MODEL.TRAINING_FREE.{key}", value]
    with pytest.raises(ValueError, match=message):
        output = Segmenter.from_config(configs / f"{method}_random.yaml", None, "cpu", options)
        output.segment(make_input()["image"].permute(1, 2, 0).byte().numpy(), ["dog"])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "sclip",
            ("WINDOW", 32, "STRIDE", 33),
            r"TRAINING_FREE\.STRIDE is 33, but MODEL\.TRAINING_FREE\.WINDOW is 32: windows would",
        ),
        ("sclip", ("WINDOW", 32, "STRIDE", 0), r"STRIDE is 0, but \S+WINDOW is 32"),
        (
            "clip_dinoiser",
            ("WINDOW", 224),
            r"WINDOW is 224, but MODEL\.META_ARCHITECTURE is CLIPDINOiser, .* has to be 0$",
        ),
    ],
)
def test_keys_that_exclude_each_other_are_refused_when_the_model_is_built(
    configs, method, options, message
):
    options = [f"MODEL.TRAINING_FREE.{o}" if i % 2 == 0 else o for i, o in enumerate(options)]
    with pytest.raises(InputError, match=message):
        build_model(model_zoo.get_config(str(configs / f"{method}_random.yaml"), options))


def test_folder_without_a_model_raises_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        Dino.from_source(str(tmp_path))


def test_invalid_weights_and_models_raise_an_error(dino, tmp_path):
    from safetensors.torch import save_file

    save_file(dino.network.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="weights.safetensors"):
        Dino.from_source("vit_tiny_patch16_224", str(tmp_path / "weights.safetensors"))
    with pytest.raises(ValueError, match="nowhere.pth"):
        Dino.from_source("vit_tiny_patch16_224", str(tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match="no vision transformer with a class token"):
        Dino.from_source("random:resnet18")


def test_single_class_covers_the_image(clip):
    single = make_input(vocabulary=Vocabulary.from_names(["dog"]))
    output = MaskCLIP(clip=clip).eval()([single])[0]
    assert (output["sem_seg"] == 1).all() and len(output["panoptic_seg"][1]) == 1


def test_vocabulary_needs_a_class_besides_background(clip):
    model = MaskCLIP(clip=clip, inference=InferenceConfig(0.5)).eval()
    with pytest.raises(ValueError, match='a class besides "background"'):
        model([make_input(vocabulary=Vocabulary.from_names(stuff=["background"]))])
    vocabulary = Vocabulary.from_names(["dog"], ["background", "sky"])
    uncertain = MaskCLIP(
        clip=clip, inference=InferenceConfig(1.0), classification=ClassificationConfig(scale=0.0)
    ).eval()([make_input(vocabulary=vocabulary)])[0]
    assert (uncertain["sem_seg"].argmax(0) == 1).all() and not uncertain["panoptic_seg"][1]


def test_memory_of_a_large_vocabulary_is_estimated(clip):
    names = Vocabulary.from_names([f"thing {number}" for number in range(1000)])
    size = MaskCLIP(clip=clip).inference_size([make_input(vocabulary=names, height=500, width=400)])
    assert size.num_classes == 1000 and size.output_pixels == 500 * 400


def test_missing_vocabulary_raises_an_error(clip):
    with pytest.raises(ValueError, match="neither `vocabulary` nor `expressions`"):
        MaskCLIP(clip=clip).eval()([{"image": make_input()["image"]}])


def test_invalid_image_raises_an_error_with_its_file(clip):
    with pytest.raises(ValueError, match=r"page.png: images have to be \[3, H, W\]"):
        MaskCLIP(clip=clip).eval()([make_input(image=torch.zeros(1, 8, 8), file_name="page.png")])


def test_training_mode_raises_an_error(clip):
    with pytest.raises(ValueError, match="MaskCLIP has nothing to train"):
        MaskCLIP(clip=clip).train()([make_input()])


def test_image_smaller_than_a_patch(clip):
    small = make_input(image=torch.full((3, 3, 5), 200.0))
    output = SCLIP(clip=clip, sliding_window=SlidingWindowConfig(32, 16)).eval()([small])[0]
    assert output["sem_seg"].shape == (2, 3, 5)


def test_stride_above_the_window_raises_an_error():
    with pytest.raises(ValueError, match="windows of 8 pixels cannot have a stride of 9"):
        sliding_window_inference(torch.zeros(1, 3, 32, 32), 8, 9, lambda crop: crop[0])


def test_tower_without_class_token_raises_an_error(clip, monkeypatch):
    monkeypatch.setattr(clip.visual, "pool_type", "avg")
    with pytest.raises(ValueError, match="no class token"):
        GEM(clip=clip)


def test_invalid_masks_raise_an_error(clip):
    image, empty = torch.rand(3, 20, 30), torch.zeros(1, 20, 30, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask 0 is empty"):
        mask_features(clip, image, empty, blocks=1)
    with pytest.raises(ValueError, match="image needs"):
        mask_features(clip, image, torch.ones(1, 9, 9, dtype=torch.bool), blocks=1)


def test_referring_without_proposals_or_expressions(clip):
    model = GlobalLocalCLIP(
        clip=clip, proposals=lambda image: torch.zeros(0, 64, 64, dtype=torch.bool), blocks=1
    ).eval()
    assert len(model([make_input(expressions=["a dog"])])[0]["referring"][0]) == 0
    with pytest.raises(ValueError, match="page.png: GlobalLocalCLIP needs `expressions`"):
        model([make_input(file_name="page.png")])


def test_invalid_arguments_of_groupings_raise_an_error():
    with pytest.raises(ValueError, match="at least one cluster"):
        kmeans_groups(torch.rand(5, 3), 0)
    assert kmeans_groups(torch.ones(5, 3), 4).tolist() == [0] * 5
    with pytest.raises(ValueError, match="in 0..1"):
        attention_masks(torch.rand(5), 1.5)
    with pytest.raises(ValueError, match="one patch cannot be cut"):
        token_cut(torch.rand(1, 3), (1, 1))
    with pytest.raises(ValueError, match="6 patches do not form a grid of 2 by 4"):
        token_cut(torch.rand(6, 3), (2, 4))


def test_sam_proposals_have_the_size_of_the_image():
    from hipie.modeling.sam.predictor import Sam
    from hipie_training_free.modeling.mask_proposals import sam_proposals

    sam = Sam.from_source("random:tiny")
    output = sam_proposals(sam, 2)(torch.rand(3, 40, 60))
    assert output.dtype == torch.bool and output.shape[1:] == (40, 60)


def test_unknown_configuration_raises_an_error(configs):
    with pytest.raises(ValueError, match="no configuration"):
        Segmenter.from_config(Path(configs) / "maskclip_vit_b61.yaml")
