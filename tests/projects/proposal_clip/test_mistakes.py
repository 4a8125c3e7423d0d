"""Bad input is one sentence that names the key."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from hipie.errors import InputError
from hipie.vocabularies import Vocabulary

KEYS = "MODEL.PROPOSAL_CLIP"
CROPS = (f"{KEYS}.MASK_FEATURES", "crops")
MISTAKES = {
    "a ViT has no dense features": (
        (f"{KEYS}.CLIP.MODEL", "random:tiny"),
        "the image encoder of random:tiny is no ConvNeXt or ResNet, which dense features need",
    ),
    "unknown source": (
        (f"{KEYS}.MASKS", "superpixels"),
        'MASKS is "superpixels"; it has to be maskdino, mask2former, sam, kmeans or hipie',
    ),
    "unknown features": (
        (f"{KEYS}.MASK_FEATURES", "pixels"),
        'MASK_FEATURES is "pixels"; it has to be dense, crops or class_token',
    ),
    "unknown part": (
        (f"{KEYS}.TRAIN", "all"),
        'TRAIN is "all"; it has to be decoder, clip or mask_prompts',
    ),
    "no class token": ((f"{KEYS}.MASK_FEATURES", "class_token"), "has no class token"),
    "prompts without crops": ((f"{KEYS}.MASK_PROMPT_DEPTH", 1), "needs .*MASK_FEATURES 'crops'"),
    "prompts of a ConvNeXt": ((f"{KEYS}.MASK_PROMPT_DEPTH", 1, *CROPS), "has no class token"),
    "too many prompts": (
        (
            *(f"{KEYS}.MASK_PROMPT_DEPTH", 4, f"{KEYS}.CLIP.MODEL", "random:tiny", *CROPS),
            *(f"{KEYS}.MASKS", "kmeans"),
        ),
        "MASK_PROMPT_DEPTH is 4; it has to be in 0..3",
    ),
    "no prompts to train": (
        (f"{KEYS}.TRAIN", "mask_prompts", *CROPS),
        "MASK_PROMPT_DEPTH is 0; it has to be at least 1",
    ),
    "no crops to train on": (
        (f"{KEYS}.TRAIN", "clip"),
        'TRAIN is "clip", which needs .*MASK_FEATURES "crops", not "dense"',
    ),
    "weight": ((f"{KEYS}.ENSEMBLE.ALPHA", 1.5), "ENSEMBLE.ALPHA is 1.5; it has to be in 0..1"),
    "threshold": ((f"{KEYS}.CROP_THRESHOLD", 1.0), "CROP_THRESHOLD is 1.0; it has to be at least"),
    "crops": ((f"{KEYS}.MAX_CROPS", 0), "MAX_CROPS is 0; it has to be at least 1"),
    "templates": ((f"{KEYS}.TEMPLATES", "vilt"), 'no set of prompt templates "vilt"'),
    "feature": (("MODEL.HIPIE.IN_FEATURES", ("p3",)), 'IN_FEATURES names "p3"'),
    "unknown CLIP": (
        (f"{KEYS}.CLIP.MODEL", "random:convnext_large_d_32"),
        "convnext_large_d_320",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence(mistake, small_cfg):
    options, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message) as error:
        build_model(small_cfg("fcclip_nano_picturebook.yaml", *options))
    assert "\n" not in str(error.value)


def test_training_vocabulary_is_known(small_cfg, image):
    cfg = small_cfg(
        "fcclip_nano_picturebook.yaml", f"{KEYS}.ENSEMBLE.TRAIN_VOCABULARY", "coco_panoptik"
    )
    model = build_model(cfg).eval()
    with pytest.raises(InputError, match=r"ENSEMBLE.TRAIN_VOCABULARY.*coco_panoptic"):
        model([{"image": image, "vocabulary": Vocabulary.from_names(things=["dog"])}])


def test_empty_vocabulary():
    with pytest.raises(InputError, match="a vocabulary needs at least one class name"):
        Vocabulary.from_names()


def test_masks_without_training_have_nothing_to_train(small_cfg):
    model = build_model(small_cfg("kmeans_random.yaml")).train()
    with pytest.raises(InputError, match="MASKS is no decoder; use --eval-only"):
        model([{"image": torch.zeros(3, 64, 64)}])


def test_only_decoders_need_a_checkpoint(small_cfg):
    from hipie.modeling.meta_arch.base import meta_architecture

    needed = {}
    for name in ("fcclip_nano_picturebook.yaml", "kmeans_random.yaml"):
        cfg = small_cfg(name)
        needed[name] = meta_architecture(cfg).requires_checkpoint_of(cfg)
    assert needed == {"fcclip_nano_picturebook.yaml": True, "kmeans_random.yaml": False}
