"""CLIP scores of the published program: ViT-B-32, weights computed by a rule, ten soft masks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_ensemble import (
    ClassPrompts,
    ClipMaskScores,
    ScoreEnsemble,
    clip_class_logits,
)
from hipie.modeling.open_vocabulary.masked_attention_pooling import patches_of_soft_masks

FILE = Path(__file__).parents[2] / "data" / "open_vocabulary" / "official_clip.npz"
PROMPTS = (
    ("person", "man", "child"),
    ("zebra crossing",),
    ("sky",),
    ("accordion", "squeezebox"),
    ("wool",),
)
IN_TRAINING = (True, False, True, False, False)
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    with np.load(FILE) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def rule_weights(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of a parameter name."""
    if name == "logit_scale":
        return torch.tensor(float(np.log(np.float32(100))))
    noise = np.random.default_rng(zlib.crc32(f"clip.{name}".encode())).standard_normal(shape)
    if len(shape) == 1 and name.endswith("weight"):
        made = 1 + 0.02 * abs(noise)
    elif name.endswith(("positional_embedding", "token_embedding.weight", "class_embedding")):
        made = noise / 2
    elif len(shape) == 1:
        made = noise / 50
    elif name in ("text_projection", "visual.proj"):
        made = noise * shape[0] ** -0.5
    else:
        made = noise * np.prod(shape[1:]) ** -0.5 * (1.5 if "in_proj" in name else 1.0)
    return torch.tensor(made, dtype=torch.float32)


@pytest.fixture(scope="module")
def clip() -> Clip:
    net = open_clip.create_model("ViT-B-32-quickgelu")
    net.load_state_dict({k: rule_weights(k, tuple(v.shape)) for k, v in net.state_dict().items()})
    return Clip(net, open_clip.get_tokenizer("ViT-B-32-quickgelu"))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    drawn = np.random.default_rng(7).random((1, 3, 96, 144))
    return torch.tensor(drawn[0], dtype=torch.float32)


@pytest.fixture(scope="module")
def masks(official) -> torch.Tensor:
    output = F.interpolate(3 * official["clip_base"] - 2.5, size=(96, 144), mode="bilinear")[0]
    output[9] = -5
    return output


def largest_difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in standard deviations of the expected values."""
    return float((output - expected).abs().max() / expected.std())


def test_texts(clip, official):
    names = [name for names in PROMPTS for name in names]
    expected = F.normalize(official["clip_text"], dim=-1)
    assert largest_difference(clip.text_features(names), expected) < TOLERANCE


def test_masks(clip, official, image, masks):
    patch_masks = patches_of_soft_masks(masks, clip.image_size, clip.patch_size)
    assert not patch_masks[9].any() and patch_masks.any()
    output = clip.encode(image).mask_features(patch_masks)
    expected = official["clip_mask_embed"][0]
    assert (
        largest_difference(F.normalize(output, dim=-1), F.normalize(expected, dim=-1)) < TOLERANCE
    )
    scores = clip_class_logits(clip, F.normalize(output, dim=-1), PROMPTS)
    assert largest_difference(scores, official["clip_mask_logits"][0]) < TOLERANCE


@pytest.mark.parametrize(("method", "key"), [("multiply", "MUL"), ("add", "ADD")])
def test_combined_probabilities(clip, official, image, masks, method, key):
    ensemble = ScoreEnsemble((0.4, 0.4), (0.45, 0.45), method)
    classes = ClassPrompts(PROMPTS, IN_TRAINING, (True,) * 5)
    scores = ClipMaskScores(clip, image, classes, ensemble)
    own, patch_masks = official["clip_prob"], scores.patch_masks(masks)
    combined = ensemble.combine(
        own, scores.probabilities(patch_masks), ensemble.weights(IN_TRAINING, (True,) * 5)
    )
    assert largest_difference(combined, official[f"clip_logits_{key}"]) < TOLERANCE
    panoptic = scores.panoptic_scores([own], patch_masks)[0]
    expected = official[f"clip_logits_{key}"].double().softmax(-1) * own.sum(-1, keepdim=True)
    assert (panoptic - expected).abs().max() < 1e-5
