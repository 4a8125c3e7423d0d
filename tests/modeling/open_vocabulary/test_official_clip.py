"""The published program's own numbers: ViT-B-32 with weights that a rule makes, ten soft masks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_mask_scores import (
    ClassPrompts,
    ClipMaskScores,
    class_logits,
)
from hipie.modeling.open_vocabulary.masked_attention_pooling import visible_patches
from hipie.modeling.open_vocabulary.score_ensemble import ScoreEnsemble

FILE = Path(__file__).parents[2] / "data" / "open_vocabulary" / "official_clip.npz"
PHRASES = (
    ("person", "man", "child"),
    ("zebra crossing",),
    ("sky",),
    ("accordion", "squeezebox"),
    ("wool",),
)
SEEN = (True, False, True, False, False)
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    with np.load(FILE) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def made_up(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor that belongs to a name."""
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
    net.load_state_dict({k: made_up(k, tuple(v.shape)) for k, v in net.state_dict().items()})
    return Clip(net, open_clip.get_tokenizer("ViT-B-32-quickgelu"))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    drawn = np.random.default_rng(7).random((1, 3, 96, 144))
    return torch.tensor(drawn[0], dtype=torch.float32)


@pytest.fixture(scope="module")
def masks(official) -> torch.Tensor:
    found = F.interpolate(3 * official["clip_base"] - 2.5, size=(96, 144), mode="bilinear")[0]
    found[9] = -5
    return found


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in standard deviations of what is expected."""
    return float((found - expected).abs().max() / expected.std())


def test_texts(clip, official):
    names = [name for names in PHRASES for name in names]
    expected = F.normalize(official["clip_text"], dim=-1)
    assert worst(clip.text_features(names), expected) < TOLERANCE


def test_masks(clip, official, image, masks):
    visible = visible_patches(masks, clip.image_size, clip.patch_size)
    assert not visible[9].any() and visible.any()
    found = clip.encode(image).mask_features(visible)
    expected = official["clip_mask_embed"][0]
    assert worst(F.normalize(found, dim=-1), F.normalize(expected, dim=-1)) < TOLERANCE
    scores = class_logits(clip, F.normalize(found, dim=-1), PHRASES)
    assert worst(scores, official["clip_mask_logits"][0]) < TOLERANCE


@pytest.mark.parametrize(("way", "key"), [("multiply", "MUL"), ("add", "ADD")])
def test_joined(clip, official, image, masks, way, key):
    ensemble = ScoreEnsemble((0.4, 0.4), (0.45, 0.45), way)
    classes = ClassPrompts(PHRASES, SEEN, (True,) * 5)
    opinion = ClipMaskScores(clip, image, classes, ensemble)
    own, visible = official["clip_prob"], opinion.patch_masks(masks)
    joined = ensemble.join(own, opinion.probabilities(visible), ensemble.weights(SEEN, (True,) * 5))
    assert worst(joined, official[f"clip_logits_{key}"]) < TOLERANCE
    merged = opinion.panoptic_scores([own], visible)[0]
    expected = official[f"clip_logits_{key}"].double().softmax(-1) * own.sum(-1, keepdim=True)
    assert (merged - expected).abs().max() < 1e-5
