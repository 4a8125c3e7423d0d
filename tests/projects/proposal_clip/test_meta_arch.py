"""Training, evaluation and inference of `ProposalCLIP` from its configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from hipie.engine.trainer import Trainer
from hipie.vocabularies import Vocabulary
from tests.projects.proposal_clip.conftest import CONFIGS

VOCABULARY = Vocabulary.from_names(things=["square", ("dog", "puppy")], stuff=["grass"])
MASK2FORMER = (
    *("MODEL.PROPOSAL_CLIP.MASKS", "mask2former", "MODEL.HIPIE.LOSS.STUFF_TERMS"),
    "('class_cross_entropy_loss', 'mask_cross_entropy_loss', 'mask_dice_loss')",
    *("MODEL.HIPIE.LOSS.STUFF_COSTS.BOX", 0.0, "MODEL.HIPIE.LOSS.STUFF_COSTS.GIOU", 0.0),
)


def trained(cfg, iterations: int, resume: bool = False) -> Trainer:
    cfg.SOLVER.MAX_ITER = iterations
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize("options", [(), MASK2FORMER], ids=["maskdino", "mask2former"])
def test_decoder_is_trained_resumed_and_evaluated(small_cfg, options):
    cfg = small_cfg("fcclip_nano_picturebook.yaml", *options)
    start = {k: v.clone() for k, v in Trainer.build_model(cfg).state_dict().items()}
    trained(cfg, 1)
    trainer = trained(cfg, 2, resume=True)
    assert trainer.start_iter == 1
    model = trainer.model
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    assert not any(name.startswith("clip_network.") for name in changed)
    assert {
        "in_vocabulary_head.void_embedding",
        "in_vocabulary_head.logit_scale",
        "in_vocabulary_head.pool_projection.weight",
        "generator.mask_embedding.layers.2.weight",
        "generator.pixel_decoder.lateral.0.weight",
    } <= changed
    Trainer.test(cfg, model.eval())
    results = json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())
    assert 0 <= results["picturebook_val_panoptic"]["panoptic_seg"]["PQ"] <= 100


def test_losses_of_a_batch_fall(small_cfg):
    cfg = small_cfg("fcclip_nano_picturebook.yaml")
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    model, batch = trainer.model, next(iter(trainer.build_train_loader(cfg)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    totals = []
    for _ in range(41):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        names = ("loss_ce_maskdino", "loss_mask_maskdino", "loss_dice_maskdino")
        totals.append(sum(losses[name].item() for name in names))
    assert totals[-1] < 0.92 * totals[0]


def test_results_have_the_requested_size_and_the_vocabulary(small_cfg, image):
    cfg = small_cfg("fcclip_nano_picturebook.yaml")
    model = build_model(cfg).eval()
    item = {"image": image, "vocabulary": VOCABULARY, "height": 32, "width": 48}
    (result,) = model([item])
    assert result["sem_seg"].shape == (3, 32, 48)
    assert result["panoptic_seg"][0].shape == (32, 48)
    assert result["instances"].pred_masks.shape[1:] == (32, 48)
    assert set(result["instances"].pred_classes.tolist()) <= {0, 1}
    (labels,) = model([item | {"results": ["sem_seg_labels"]}])
    assert set(labels) == {"sem_seg_labels"}
    assert torch.equal(labels["sem_seg_labels"].labels, result["sem_seg"].argmax(0))


def test_images_of_a_batch_of_one_size_do_not_depend_on_each_other(small_cfg, image):
    model = build_model(small_cfg("fcclip_nano_picturebook.yaml")).eval()
    other = Vocabulary.from_names(things=["kite"])
    items = [
        {"image": image, "vocabulary": VOCABULARY},
        {"image": image.flip(2), "vocabulary": other},
    ]
    together = model(items)
    for item, result in zip(items, together, strict=True):
        (alone,) = model([item])
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], atol=1e-4, rtol=1e-4)


OWN_BACKBONE = (
    *("MODEL.PROPOSAL_CLIP.SHARED_BACKBONE", False, "MODEL.BACKBONE.NAME", "build_timm_backbone"),
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.BACKBONE.FREEZE_AT", 0),
)
VIT = ("MODEL.PROPOSAL_CLIP.CLIP.MODEL", "random:tiny")
CROPS = (
    *("MODEL.PROPOSAL_CLIP.MASK_FEATURES", "crops", "MODEL.PROPOSAL_CLIP.MASK_PROMPT_DEPTH", 2),
    *("MODEL.PROPOSAL_CLIP.ENSEMBLE.NORMALIZED", False),
)
VARIANTS = {
    "dense": (),
    "crops with prompts": (*VIT, *CROPS),
    "class token": (*VIT, "MODEL.PROPOSAL_CLIP.MASK_FEATURES", "class_token"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_with_a_backbone_of_its_own(small_cfg, image, variant):
    cfg = small_cfg(
        "fcclip_nano_picturebook.yaml",
        *OWN_BACKBONE,
        *VARIANTS[variant],
        *("MODEL.PROPOSAL_CLIP.ENSEMBLE.ALPHA", 1.0, "MODEL.PROPOSAL_CLIP.ENSEMBLE.BETA", 1.0),
    )
    model = build_model(cfg).eval()
    item = {"image": image, "vocabulary": VOCABULARY}
    decoded = model._decode([item])
    layer = decoded.output.layers[-1].of_image(0)
    rgb = image.float() / 255
    # One mask of the lower half, and one without pixels: the weight of CLIP is 1.
    masks = torch.full((10, 16, 24), -9.0)
    masks[0, 8:] = 9.0
    scores = model.query_scores(layer, masks, VOCABULARY, image=rgb, size=(64, 96))
    lower = torch.zeros(1, 64, 96, dtype=torch.bool)
    lower[:, 32:] = True
    features = model.mask_features(rgb, lower)
    texts = model.clip.text_features(["square", "dog", "puppy", "grass"], "one")
    cosines = torch.nn.functional.normalize(features, dim=-1) @ texts.t()
    logits = model.clip.logit_scale * cosines
    by_class = torch.stack([logits[0, 0], logits[0, 1:3].max(), logits[0, 3]])
    expected = by_class.softmax(-1) * (1 - scores[0, -1] if variant != "crops with prompts" else 1)
    torch.testing.assert_close(scores[0, :-1], expected, atol=2e-3, rtol=2e-2)
    assert scores.isfinite().all()
    if variant == "crops with prompts":
        assert torch.equal(scores[1, :-1], torch.ones(3))  # published: CLIP's probability is 1
    (result,) = model([item])
    assert result["sem_seg"].shape == (3, 64, 96)


@pytest.mark.parametrize("config", sorted(file.name for file in CONFIGS.glob("[!B]*.yaml")))
def test_configurations_are_valid(config):
    from hipie import model_zoo

    cfg = model_zoo.get_config(str(CONFIGS / config))
    assert cfg.MODEL.META_ARCHITECTURE == "ProposalCLIP"
