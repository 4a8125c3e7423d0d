"""Masks of SAM, of clusters and of another model, and the training of CLIP and its prompts."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from hipie.engine.trainer import Trainer
from hipie.modeling.clustering import cluster_masks
from hipie.vocabularies import Vocabulary
from hipie_proposal_clip.modeling.proposals import ModelProposals

VOCABULARY = Vocabulary.from_names(things=["square", "dog"], stuff=["grass"])
KEYS = "MODEL.PROPOSAL_CLIP"


def test_masks_of_clusters_are_named_without_training(small_cfg, image):
    model = build_model(small_cfg("kmeans_random.yaml")).eval()
    item = {"image": image, "vocabulary": VOCABULARY, "height": 32, "width": 48}
    (result,) = model([item])
    assert result["sem_seg"].shape == (3, 32, 48) and len(result["panoptic_seg"][1]) >= 1
    rgb = image.float() / 255
    masks = model.proposals(rgb, VOCABULARY)
    features = model.mask_features(rgb, masks)
    texts = model.clip.text_features(["square", "dog", "grass"], "one")
    cosines = torch.nn.functional.normalize(features, dim=-1) @ texts.t()
    probabilities = (model.clip.logit_scale * cosines).softmax(-1)
    largest = int(masks.flatten(1).sum(1).argmin())
    row, column = masks[largest].nonzero()[0].tolist()
    small = model([{"image": image, "vocabulary": VOCABULARY}])[0]["sem_seg"][:, row, column]
    torch.testing.assert_close(small, probabilities[largest], atol=1e-4, rtol=1e-4)


def test_masks_of_sam(small_cfg, image):
    pytest.importorskip("segment_anything")
    model = build_model(small_cfg("kmeans_random.yaml", f"{KEYS}.MASKS", "sam")).eval()
    (result,) = model([{"image": image, "vocabulary": VOCABULARY}])
    assert result["sem_seg"].shape == (3, 64, 96)
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert names == set()


class TwoHalves(torch.nn.Module):
    """Model with two segments, of the left and the right half."""

    tasks = frozenset({"universal"})

    def forward(self, inputs):
        (item,) = inputs
        self.shape, self.colour = tuple(item["image"].shape), item["image"][:, -1, -1]
        panoptic = torch.ones(item["height"], item["width"], dtype=torch.int32)
        panoptic[:, item["width"] // 2 :] = 2
        return [{"panoptic_seg": (panoptic, [{"id": 1}, {"id": 2}, {"id": 3}])}]


def test_segments_of_another_model_are_the_masks():
    image = torch.zeros(3, 20, 40)
    image[0] = 1.0
    other = TwoHalves()
    masks = ModelProposals(other, 40, 60, bgr=True)(image, VOCABULARY)
    assert masks.shape == (2, 20, 40) and masks[0, :, :20].all() and not masks[0, :, 20:].any()
    assert other.shape == (3, 30, 60)
    assert other.colour.round().tolist() == [0, 0, 255]


def test_cluster_masks_are_the_connected_parts():
    features = torch.zeros(4, 6, 8)
    features[..., 0], features[:, :2, 0], features[:, :2, 1] = 1.0, 0.0, 1.0
    features[:, 4:, 0], features[:, 4:, 1] = 0.0, 1.0
    masks = cluster_masks(features.flatten(0, 1), (4, 6), (8, 12), clusters=2, restarts=2)
    areas = sorted(masks.flatten(1).sum(1).tolist())
    assert areas == [32, 32, 32] and masks.sum(0).unique().tolist() == [1]


def test_cluster_proposals_cover_the_image(small_cfg, image):
    model = build_model(small_cfg("kmeans_random.yaml")).eval()
    masks = model.proposals(image.float() / 255, VOCABULARY)
    assert masks.shape[1:] == (64, 96) and masks.any(0).float().mean() > 0.9


@pytest.mark.parametrize("part", ["clip", "mask_prompts"])
def test_clip_or_its_prompts_learn_masked_crops(small_cfg, part):
    cfg = small_cfg(
        "ovseg_nano_picturebook.yaml",
        *(f"{KEYS}.MASKS", "kmeans", f"{KEYS}.TRAIN", part, f"{KEYS}.MASK_PROMPT_DEPTH", 2),
        *("SOLVER.MAX_ITER", 1, f"{KEYS}.MAX_CROPS", 3),
    )
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    model = trainer.model
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    if part == "mask_prompts":
        assert trained == {"mask_prompts.tokens"}
    else:
        assert trained and all(name.startswith("clip_network.visual.") for name in trained)
    batch = next(iter(trainer.build_train_loader(cfg)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)  # the same crops
        loss = model(batch)["loss_contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_images_without_objects_have_a_loss_of_zero(small_cfg):
    from detectron2.structures import BitMasks, Boxes, Instances

    cfg = small_cfg("ovseg_nano_picturebook.yaml", f"{KEYS}.MASKS", "kmeans")
    model = build_model(cfg).train()
    instances = Instances((64, 64))
    instances.gt_classes, instances.gt_boxes = torch.zeros(0).long(), Boxes(torch.zeros(0, 4))
    instances.gt_masks = BitMasks(torch.zeros(0, 64, 64))
    item = {"image": torch.zeros(3, 64, 64), "instances": instances, "vocabulary": VOCABULARY}
    loss = model([item])["loss_contrastive"]
    loss.backward()
    assert loss.item() == 0
