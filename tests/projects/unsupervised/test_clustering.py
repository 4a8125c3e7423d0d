"""Clusters of features, and their evaluation after Hungarian matching."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from hipie.errors import InputError
from hipie_unsupervised.clustering import FeatureClustering, cosine_plus_plus
from hipie_unsupervised.data.unlabelled import UnlabelledMapper
from hipie_unsupervised.evaluation.cluster_evaluation import match_clusters, matched_scores


class ColourBackbone(Backbone):
    """The mean colours of patches of 4 pixels."""

    def forward(self, pixels):
        return {"res2": torch.nn.functional.avg_pool2d(pixels, 4)}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=3, stride=4)}

    @property
    def size_divisibility(self):
        return 8


def build(clusters=3, features=("res2",)):
    return FeatureClustering(
        backbone=ColourBackbone(),
        clusters=clusters,
        features=features,
        pixel_mean=[0.0] * 3,
        pixel_std=[255.0] * 3,
    )


def image_of(seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, (5, 6), generator=generator).repeat_interleave(4, 0)
    target = target.repeat_interleave(4, 1)
    noise = 40 * torch.rand(3, *target.shape, generator=generator)
    return 200 * torch.eye(3)[target].permute(2, 0, 1) + noise, target


def test_three_colours_are_three_clusters():
    torch.manual_seed(1)
    model = build().train()
    inputs = [{"image": image_of(seed)[0]} for seed in range(4)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(30):
        loss = model.losses(inputs)["loss_cluster"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and losses[-1] < 0.02
    confusion = np.zeros((3, 3), np.int64)
    for seed in range(4, 8):
        image, target = image_of(seed)
        (output,) = model.eval()([{"image": image}])
        assert output["sem_seg"].shape == (3, 20, 24)
        np.add.at(confusion, (output["sem_seg"].argmax(0).numpy(), target.numpy()), 1)
    assert matched_scores(confusion)["mIoU"] > 85


def test_outputs_have_the_requested_size_and_padding_is_left_out():
    model = build().eval()
    image, _ = image_of(0)
    small = {"image": image[:, :13, :18], "height": 26, "width": 36}
    alone = model([small])[0]["sem_seg"]
    together = model([{"image": image}, small])[1]["sem_seg"]
    assert alone.shape == together.shape == (3, 26, 36)
    torch.testing.assert_close(alone, together)


def test_impossible_settings_are_errors():
    with pytest.raises(InputError, match=r"FEATURES is \('res9',\); the backbone has res2"):
        build(features=("res9",))
    with pytest.raises(InputError, match="CLUSTERS is 1; it has to be at least 2"):
        build(clusters=1)
    with pytest.raises(InputError, match="4 clusters need as many features"):
        cosine_plus_plus(torch.eye(3), 4)


def test_initial_centroids_are_different_features():
    rows = torch.eye(4).repeat(50, 1)
    chosen = cosine_plus_plus(rows, 4)
    assert torch.equal(chosen.sum(0), torch.ones(4))


def test_scores_equal_the_best_of_all_matchings():
    generator = np.random.default_rng(0)
    for _ in range(5):
        confusion = generator.integers(0, 100, (4, 4))
        best = max(permutations(range(4)), key=lambda p: sum(confusion[i, p[i]] for i in range(4)))
        np.testing.assert_array_equal(match_clusters(confusion), best)
        ious = [
            confusion[i, best[i]]
            / (confusion[i].sum() + confusion[:, best[i]].sum() - confusion[i, best[i]])
            for i in range(4)
        ]
        assert matched_scores(confusion)["mIoU"] == pytest.approx(100 * np.mean(ious))


def test_scores_equal_those_of_stego(published):
    scores = matched_scores(published["stego_confusion"])
    np.testing.assert_allclose([scores["mIoU"], scores["accuracy"]], published["stego"], rtol=1e-6)


def test_clusters_beyond_the_classes_are_errors():
    confusion = np.array([[10, 0], [0, 6], [0, 4]])
    assert match_clusters(confusion).tolist() == [0, 1, -1]
    scores = matched_scores(confusion)
    assert scores == {"mIoU": pytest.approx(80.0), "accuracy": pytest.approx(80.0), "clusters": 3}


def test_images_are_mapped_without_annotations(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    record = {"file_name": str(path), "image_id": 3, "height": 40, "width": 60}
    record["annotations"] = "not read"
    item = UnlabelledMapper(20, 100, "RGB")(record)
    assert item["image"].shape == (3, 20, 30) and (item["height"], item["width"]) == (40, 60)


def test_learns_and_is_evaluated_from_the_command_line(tiny_book, tmp_path):
    import json

    from hipie.cli import train

    options = [
        *("PICTUREBOOK.ROOT", tiny_book, "PICTUREBOOK.TRAIN_PAGES", 8, "PICTUREBOOK.VAL_PAGES", 3),
        *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.WEIGHTS", "", "SOLVER.MAX_ITER", 2),
        *("OUTPUT_DIR", tmp_path, "SOLVER.WARMUP_ITERS", 1, "DATALOADER.NUM_WORKERS", 0),
        *("INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2),
    ]
    arguments = ["--config-file", "clusters_nano_picturebook.yaml", *map(str, options)]
    train.run(train.parse_arguments(arguments))
    ((task, scores),) = json.loads((tmp_path / "results.json").read_text())[
        "picturebook_val_panoptic"
    ].items()
    assert task == "clusters" and 0 < scores["mIoU"] <= 100
