"""ZegCLIP's self-training: pseudo labels of held-out classes."""

from __future__ import annotations

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from hipie import model_zoo
from hipie.vocabularies import Vocabulary
from hipie_trained_clip import zegclip
from hipie_trained_clip.modeling.criterion import pseudo_labels
from tests.projects.trained_clip.conftest import semantic_item


@pytest.fixture
def transductive(build):
    """A model whose training leaves out puma and horse, and an image without their labels."""
    name = "trained_clip_transductive"
    vocabulary = Vocabulary.from_names(things=["dog", ("puma", "cougar"), "horse"], stuff=["grass"])
    MetadataCatalog.get(name).set(vocabulary=vocabulary)
    item = semantic_item()
    item["vocabulary"] = Vocabulary.from_names(things=["dog"], stuff=["grass"])
    item["instances"] = item["instances"][:1]  # the square of dog; 26 columns below have no label
    item["ignored"][:] = 0
    item["ignored"][30:60, 30:60] = 2
    options = {"train_datasets": (name,), "held_out": ("cougar", "horse")}
    yield lambda **more: build("ZegCLIP", **options, **more), item
    MetadataCatalog.pop(name)


def logits_and_losses(model, item):
    """Gradients of the mask logits [K, h, w] of an image, and its losses."""
    kept = []
    original = model.mask_logits

    def mask_logits(pixels, texts):
        maps = original(pixels, texts)
        for scores in maps:
            scores.retain_grad()
        kept.extend(maps)
        return maps

    model.mask_logits = mask_logits
    losses = model.train().losses([item])
    sum(losses.values()).backward()
    return kept[0].grad, losses


def test_unrecorded_have_a_gradient_from_the_start_of_the_self_training_on(transductive):
    build_model, item = transductive
    gradients = {}
    for iteration in (4, 5):
        with EventStorage(iteration):
            model = build_model(self_training_start=5, unlabelled_negative=False)
            gradients[iteration], _ = logits_and_losses(model, item)
    # Patches of 8 pixels; those inside the unlabelled square, away from its border.
    inside = (slice(None), slice(5, 7), slice(5, 7))
    assert gradients[4].shape[0] == 2 and not gradients[4][inside].any()
    assert gradients[4].abs().sum() > 0
    assert gradients[5].shape[0] == 5, "dog, grass, puma, cougar, horse"
    assert (gradients[5][inside].abs().sum(0) > 0).all()


def test_self_training_that_has_not_begun_changes_nothing(transductive):
    build_model, item = transductive
    with EventStorage(4):
        _, before = logits_and_losses(build_model(self_training_start=5), item)
        _, never = logits_and_losses(build_model(), item)
    assert all(torch.equal(before[name], never[name]) for name in never)


def test_pseudo_labels_are_the_most_probable_unseen_class():
    torch.manual_seed(0)
    logits, unlabelled = torch.randn(5, 6, 7), torch.rand(6, 7) > 0.4
    logits[:3] += 100  # classes with labels are never pseudo labels
    labels = pseudo_labels(logits, 3, unlabelled)
    assert not labels[:3].any() and torch.equal(labels.any(0), unlabelled)
    for row, column in unlabelled.nonzero().tolist():
        expected = 3 + int(logits[4, row, column] > logits[3, row, column])
        assert labels[:, row, column].nonzero().flatten().tolist() == [expected]


def test_self_training_losses_are_those_of_the_completed_labels(transductive, monkeypatch):
    """With an image whose unlabelled square is labelled as the model's prediction says."""
    build_model, item = transductive
    model = build_model(self_training_start=0).train()
    whole = model._with_held_out(item["vocabulary"])
    assert len(whole) == 4 and whole.names[:2] == ("dog", "grass")
    losses = model.losses([item])
    completed = {**item, "vocabulary": whole, "ignored": torch.zeros_like(item["ignored"])}
    recorded = {}

    def record(logits, targets, labelled, weights):
        recorded["logits"] = logits[0].detach()
        return {}

    with monkeypatch.context() as patched:
        patched.setattr(zegclip, "zegclip_losses", record)
        model.losses([item])
    predicted = recorded["logits"][2:].argmax(0) + 2
    square = item["ignored"] == 2
    masks = [square & (predicted == label) for label in (2, 3)]
    present = [(label, mask) for label, mask in zip((2, 3), masks, strict=True) if mask.any()]
    instances = item["instances"]
    tensors = [instances.gt_masks.tensor, *(mask[None] for _, mask in present)]
    joined = Instances((64, 64))
    joined.gt_masks = BitMasks(torch.cat(tensors))
    labels = [*instances.gt_classes.tolist(), *(label for label, _ in present)]
    joined.gt_classes = torch.tensor(labels)
    completed["instances"] = joined
    expected = build_model().train().losses([completed])
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("SELF_TRAINING", 1.5), "SELF_TRAINING is 1.5; it has to be in 0..1"),
        (("SELF_TRAINING", 0.5), "needs classes in DATASETS.HELD_OUT_CLASSES"),
    ],
)
def test_self_training_needs_a_share_and_classes(configs, options, message):
    key, value = options
    options = (f"MODEL.TRAINED_CLIP.ZEGCLIP.{key}", value, "DATASETS.HELD_OUT_CLASSES", ())
    with pytest.raises(ValueError, match=message):
        zegclip._self_training_start(
            model_zoo.get_config(str(configs / "zegclip_random.yaml"), options)
        )
    published = model_zoo.get_config(str(configs / "zegclip_vit_b16_voc_transductive.yaml"))
    assert zegclip._self_training_start(published) == 10000
