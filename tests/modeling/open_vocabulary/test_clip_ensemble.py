"""CLIP beside the model: which classes are known, what CLIP is shown, what a configuration says."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import MetadataCatalog

from hipie import model_zoo
from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble
from hipie.modeling.open_vocabulary.score_ensemble import ScoreEnsemble
from hipie.vocabularies.vocabulary import Vocabulary

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
WORDS = Vocabulary.from_names(
    things=["accordion", ("fellow", "person"), "dog"], stuff=["sky,clouds", "tar"]
)


def weights_of(config: str) -> tuple:
    cfg = model_zoo.get_config(f"eval/{config}.yaml")
    if not cfg.MODEL.HIPIE.CLIP.ENABLED:
        return ()
    one = ClipEnsemble.from_config(cfg).ensemble
    assert cfg.MODEL.HIPIE.CLIP.MODEL == "ViT-L-14-336" and one.way == "multiply"
    assert one.seen[0] == one.seen[1] and one.unseen[0] == one.unseen[1]
    return one.seen[0], one.unseen[0], one.thing_temperature, cfg.MODEL.HIPIE.TEST.TEMPERATURE


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ade20k", (0.4, 0.45, 0.06, 0.06)),
        ("odinw", (0.2, 0.45, 0.06, 0.06)),
        ("seginw", (0.2, 0.45, 0.06, 0.06)),
        ("pascal_context_459", (0.35, 0.45, 0.06, 0.06)),
        ("voc", (0.01, 0.4, 0.005, 0.06)),
        ("coco", ()),
        ("refcoco", ()),
        ("parts", ()),
    ],
)
def test_evaluations_take_the_published_weights(task, expected):
    assert weights_of(f"hipie_r50_{task}") == weights_of(f"hipie_vit_h_{task}") == expected


def test_classes_that_share_a_name_with_the_training_data_are_seen():
    image = torch.zeros(3, 20, 30)
    classes = ClipEnsemble("random:tiny").of(image, MEAN, WORDS).classes
    assert classes.phrases == (
        ("accordion",),
        ("fellow", "person"),
        ("dog",),
        ("sky", "clouds"),
        ("tar",),
    )
    assert classes.is_seen == (False, True, True, True, False)
    assert classes.is_thing == (True, True, True, False, False)


def test_a_data_sets_unseen_classes_are_not_seen():
    name = "second_opinion_trained"
    MetadataCatalog.get(name).set(thing_classes=["dog", "tar"], unseen_classes=["tar"])
    opinion = ClipEnsemble("random:tiny", seen=name)
    classes = opinion.of(torch.zeros(3, 20, 30), MEAN, WORDS).classes
    assert classes.is_seen == (False, False, True, False, False)
    wrong = ClipEnsemble("random:tiny", seen="coco_panoptics")
    with pytest.raises(ValueError, match=r"CLIP.TRAIN_VOCABULARY\) .*near ones are coco_panoptic"):
        wrong.of(torch.zeros(3, 20, 30), MEAN, WORDS)


def test_clip_sees_the_image_in_rgb_padded_with_the_mean():
    image = torch.arange(3 * 20 * 30).view(3, 20, 30).remainder(255).float()
    plain = ClipEnsemble("random:tiny").of(image, MEAN, WORDS)
    assert plain.size == (20, 30) and torch.allclose(plain.image, image / 255)
    padded = ClipEnsemble("random:tiny", bgr=True).of(image, MEAN, WORDS, 32)
    assert padded.size == (32, 32)
    assert torch.allclose(padded.image[:, :20, :30], image.flip(0) / 255, atol=1e-6)
    assert torch.allclose(padded.image[:, 20:], MEAN.flip(0) / 255)


def test_names_are_checked_before_anything_is_loaded():
    with pytest.raises(ValueError, match="near ones are ViT-L-14-336"):
        ClipEnsemble("ViT-L-14-366", "openai")
    late = ClipEnsemble("random:RN50")
    with pytest.raises(ValueError, match="no class token"):
        late.of(torch.zeros(3, 20, 30), MEAN, WORDS)
    assert ScoreEnsemble() == late.ensemble
