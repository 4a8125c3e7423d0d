"""SimOTA against the pairs of the published system and against a naive implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from hipie.modeling.matcher.sim_ota import sim_ota

PUBLISHED = Path(__file__).parents[2] / "data" / "matching_published.npz"


def naive_sim_ota(logits, boxes, objects, positive):
    """The same rules with lists and double precision costs."""
    corners = box_convert(boxes, "cxcywh", "xyxy")
    object_corners = box_convert(objects, "cxcywh", "xyxy")
    ious = box_iou(corners, object_corners)
    gious = generalized_box_iou(corners, object_corners)
    queries, number = ious.shape
    cost = np.zeros((queries, number), dtype=np.float32)
    for q in range(queries):
        near_any = False
        x, y = boxes[q, :2].tolist()
        for j in range(number):
            p = torch.sigmoid(logits[q, positive[j]].double())
            as_positive = 0.25 * (1 - p) ** 2 * -torch.log(p + 1e-8)
            as_negative = 0.75 * p**2 * -torch.log(1 - p + 1e-8)
            left, top, right, bottom = object_corners[j].tolist()
            inside = left < x < right and top < y < bottom
            cx, cy = objects[j, :2].tolist()
            close = abs(x - cx) < 2.5 / 32 and abs(y - cy) < 2.5 / 32
            near_any |= inside or close
            cost[q, j] = (
                (as_positive - as_negative).mean()
                - 3 * gious[q, j]
                + 100 * (not (inside and close))
            )
        if not near_any:
            cost[q] += 10000
    owned = {j: set() for j in range(number)}
    for j in range(number):
        k = max(1, int(sum(sorted(ious[:, j].tolist())[-10:])))
        owned[j] = set(np.argsort(cost[:, j], kind="stable")[:k].tolist())
    conflicting = [q for q in range(queries) if sum(q in s for s in owned.values()) > 1]

    def resolve():
        for q in conflicting:
            best = int(cost[q].argmin())
            for queries_of_object in owned.values():
                queries_of_object.discard(q)
            owned[best].add(q)

    resolve()
    for _ in range(number):
        unmatched = [j for j in owned if not owned[j]]
        if not unmatched:
            break
        for q in set().union(*owned.values()):
            cost[q] += 100000
        for j in unmatched:
            owned[j].add(int(cost[:, j].argmin()))
        if any(sum(q in s for s in owned.values()) > 1 for q in range(queries)):
            resolve()
    pairs = []
    for q in range(queries):
        owners = [j for j in owned if q in owned[j]]
        if owners:
            pairs.append((q, owners[0]))
    return pairs


def random_case(seed, queries, number, noise):
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(number, 4, generator=generator) * 0.4 + 0.2
    boxes = objects[torch.randint(number, (queries,), generator=generator)]
    boxes = (boxes + noise * torch.randn(queries, 4, generator=generator)).clamp(0.02, 0.95)
    logits = torch.randn(queries, 8, generator=generator)
    positive = torch.rand(number, 8, generator=generator) > 0.6
    positive[:, 0] = True
    return logits, boxes, objects, positive


def test_published_pairs():
    with np.load(PUBLISHED) as stored:
        logits, boxes = (torch.from_numpy(stored[k][0]) for k in ("ota_logits", "ota_boxes"))
        objects = torch.from_numpy(stored["ota_gt"])
        positive = torch.from_numpy(stored["ota_positive_map"]).bool()
        query, chosen = sim_ota(logits, boxes, objects, positive)
        assert query.tolist() == stored["ota_query"].tolist()
        assert chosen.tolist() == stored["ota_target"].tolist()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("queries", "number", "noise"), [(40, 5, 0.05), (12, 8, 0.02), (7, 7, 0.2), (4, 6, 0.1)]
)
def test_equals_a_naive_implementation(seed, queries, number, noise):
    case = random_case(seed, queries, number, noise)
    query, chosen = sim_ota(*case)
    assert list(zip(query.tolist(), chosen.tolist(), strict=True)) == naive_sim_ota(*case)


def test_objects_with_better_boxes_get_more_queries():
    logits, boxes, objects, positive = random_case(0, 30, 2, 0.0)
    _, chosen = sim_ota(logits, boxes, objects, positive)
    counts = chosen.bincount(minlength=2)
    perfect = (boxes[:, None] == objects).all(dim=2).sum(dim=0)
    assert (counts >= perfect.clamp(max=10)).all()


@pytest.mark.parametrize(("queries", "number"), [(5, 0), (0, 3)])
def test_nothing_to_match_gives_no_pairs(queries, number):
    query, chosen = sim_ota(
        torch.zeros(queries, 4),
        torch.zeros(queries, 4),
        torch.zeros(number, 4),
        torch.zeros(number, 4, dtype=torch.bool),
    )
    assert len(query) == len(chosen) == 0
