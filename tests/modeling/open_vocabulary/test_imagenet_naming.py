"""Names of pixels by a classifier of ImageNet, whose classes are compared with the names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from hipie.config.reading import ConfigError
from hipie.errors import InputError
from hipie.modeling.open_vocabulary import imagenet_embeddings
from hipie.modeling.open_vocabulary.imagenet_embeddings import class_embeddings
from hipie.modeling.open_vocabulary.imagenet_naming import (
    ImageNetNaming,
    NamingSettings,
    combine_pixels,
    transfer_names,
)
from hipie.modeling.tag_matching import class_descriptions, embed
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass
from tests.modeling.meta_arch.test_ablation_keys import built
from tests.modeling.meta_arch.test_hipie import VOCABULARY, make_image

ENABLED = ("PIXEL_HEAD.ENABLED", True, "IMAGENET.ENABLED", True)


@pytest.fixture(scope="module")
def encoder() -> BertTextEncoder:
    return BertTextEncoder.from_source("minilm", frozen=True).eval()


def names(*classes: str, **parts: str) -> Vocabulary:
    """Stuff classes, and parts by the name of their whole."""
    entries = [VocabularyClass(name, "stuff") for name in classes]
    entries += [VocabularyClass(part, "part", whole=whole) for whole, part in parts.items()]
    return Vocabulary(tuple(entries))


def test_transfer_is_the_softmax_over_names_and_none() -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (7, 4))
    settings = NamingSettings(alpha=0.2, beta=0.6, temperature=0.1, none_similarity=0.3)
    is_part, in_training = [False, False, True, False], [True, False, False, False]
    similarity[:, 3] = 0.4  # no class is similar
    similarity[0, :2] = 0.9
    result = transfer_names(torch.from_numpy(similarity), is_part, in_training, settings)
    columns = np.column_stack([similarity[:, [0, 1, 3]], np.full(7, 0.3)]) / 0.1
    expected = np.exp(columns) / np.exp(columns).sum(1, keepdims=True)
    np.testing.assert_allclose(result.transfer[:, [0, 1, 3, 4]].numpy(), expected, rtol=1e-12)
    assert not result.transfer[:, 2].any()
    torch.testing.assert_close(
        result.weights, torch.tensor([0.2, 0.6, 0.0, 0.0, 0.6]), check_dtype=False
    )
    similarity[:, 1] = 0.4  # nor to any name that is not trained
    unknown = transfer_names(torch.from_numpy(similarity), is_part, in_training, settings)
    assert not unknown.weights.any()


def test_combination_is_the_weighted_geometric_mean() -> None:
    generator = np.random.default_rng(1)
    logits, other = generator.normal(size=(3, 4, 5)), generator.uniform(size=(3, 4, 5))
    other[2] = 0.0
    weights = np.array([0.7, 0.25, 0.0])
    q = np.exp(logits) / np.exp(logits).sum(0)
    expected = q ** (1 - weights[:, None, None]) * other ** weights[:, None, None]
    combined = combine_pixels(*map(torch.from_numpy, (logits, other, weights)))
    np.testing.assert_allclose(combined.exp().numpy(), expected, rtol=1e-12)


def test_stored_embeddings_are_those_of_the_encoder(encoder: BertTextEncoder, monkeypatch) -> None:
    stored = class_embeddings(1000, "net", encoder)
    rows = [0, 1, 150, 281, 999]
    texts = class_descriptions(1000, "net")
    torch.testing.assert_close(
        stored[rows], embed([texts[row] for row in rows], encoder), atol=1e-3, rtol=0
    )
    # Another encoder of the same width has its own.
    monkeypatch.setattr(imagenet_embeddings, "class_descriptions", lambda *_: texts[:4])
    assert len(class_embeddings(4, "net", encoder)) == 4


def test_a_photograph_of_a_cat_is_named_without_training(encoder: BertTextEncoder) -> None:
    skimage = pytest.importorskip("skimage.data")
    image = torch.from_numpy(skimage.chelsea()).permute(2, 0, 1)
    settings = NamingSettings(beta=1.0, scale=1.0)
    naming = ImageNetNaming("tf_efficientnet_lite0", settings=settings)
    for candidates in (("cat", "dog", "bus"), ("horse", "kitten", "tractor")):
        vocabulary = names(*candidates)
        logits = torch.zeros(4, 80, 120)
        combined = naming.combine(logits, 4, image, vocabulary, encoder)
        shares = combined[:, :75, :113].softmax(0).mean((1, 2))
        assert candidates[int(shares[:3].argmax())] in ("cat", "kitten")
        blue_first = ImageNetNaming("tf_efficientnet_lite0", settings=settings, bgr=True)
        swapped = blue_first.combine(logits, 4, image.flip(0), vocabulary, encoder)
        torch.testing.assert_close(swapped, combined)


def test_names_of_the_training_and_parts_keep_their_logits(encoder: BertTextEncoder) -> None:
    naming = ImageNetNaming(
        "tf_efficientnet_lite0",
        train_vocabularies=("coco_panoptic",),
        train_names=("otter",),
        held_out=("bear",),
    )
    logits, image = torch.randn(3, 8, 8), torch.zeros(3, 32, 32)
    for known in (names("horse", "car"), names("Otter", "car")):
        assert naming.combine(logits, 4, image, known, encoder) is logits
    assert naming.combine(logits, 4, image, names("horse", car="wheel"), encoder) is logits
    assert "classifier" not in vars(naming)  # not loaded
    changed = naming.combine(logits, 4, image, names("horse", "bear"), encoder)
    reference = logits.log_softmax(0)
    assert not torch.allclose(changed, reference, atol=0.1)
    naming.settings = NamingSettings(alpha=0.0)
    naming._names.clear()
    changed = naming.combine(logits, 4, image, names("horse", "bear"), encoder)
    torch.testing.assert_close(changed[0], reference[0])
    assert not torch.allclose(changed[1:], reference[1:], atol=0.1)


@pytest.mark.parametrize(
    ("values", "key"),
    [({"beta": 1.5}, "BETA"), ({"alpha": -0.1}, "ALPHA"), ({"temperature": 0.0}, "TEMPERATURE")],
)
def test_values_out_of_range_name_the_key(values: dict, key: str) -> None:
    with pytest.raises(InputError, match=f"MODEL.HIPIE.IMAGENET.{key} must be"):
        NamingSettings(**values)


def test_in_hipie_a_batch_equals_its_images(tiny_cfg: CfgNode) -> None:
    """And results change by the classifier alone; trained names do not change."""
    options = (*ENABLED, "IMAGENET.MIN_SIMILARITY", -1.0, "IMAGENET.MODEL", "tf_efficientnet_lite0")
    model = built(tiny_cfg, *options).eval()
    inputs = [{"image": make_image(i), "vocabulary": VOCABULARY} for i in range(2)]
    with torch.no_grad():
        together = model(inputs)
        alone = [model([item])[0] for item in inputs]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one["sem_seg"], other["sem_seg"], atol=1e-4, rtol=1e-3)
        naming, model.naming = model.naming, None
        without = model(inputs[:1])[0]["sem_seg"]
        assert not torch.allclose(without, alone[0]["sem_seg"], atol=1e-4)
        naming.settings = NamingSettings(alpha=0.0, beta=0.0)
        naming._names.clear()
        model.naming = naming
        torch.testing.assert_close(model(inputs[:1])[0]["sem_seg"], without)
    assert not any(name.startswith("naming") for name in model.state_dict())


def test_it_needs_the_pixel_class_head(tiny_cfg: CfgNode) -> None:
    with pytest.raises(ConfigError, match="IMAGENET.ENABLED True and .*PIXEL_HEAD.ENABLED False"):
        built(tiny_cfg, "IMAGENET.ENABLED", True)
