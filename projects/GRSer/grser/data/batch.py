"""What a dict of a batch asks: a group, or expressions about one image, each a group of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from grser.data.image_batch import name_of


@dataclass(frozen=True)
class Group:
    """One sentence over some images.

    Attributes:
        expression: the expression.
        items: the images' dicts.
        ruled: whether an image may be negative.
    """

    expression: str
    items: list[dict[str, Any]]
    ruled: bool


def groups_of(item: dict[str, Any], *, training: bool) -> list[Group]:
    """The groups of one dict; see `GRSer`.

    Raises:
        ValueError: if it has neither images and an expression nor an image and expressions.
    """
    if "images" in item:
        if not item["images"]:
            raise ValueError("a group needs at least one image in `images`")
        if not isinstance(item.get("expression"), str):
            raise ValueError("a group needs `expression`, an expression")
        return [Group(item["expression"], list(item["images"]), True)]
    if not item.get("expressions") or isinstance(item["expressions"], str):
        raise ValueError(
            f"{name_of(item, 0)}: GRSer needs `images` and `expression`, or one `image` and a "
            "list of `expressions`"
        )
    if not training:
        return [Group(one, [item], False) for one in item["expressions"]]
    if "instances" not in item:
        raise ValueError(f"{name_of(item, 0)}: a training image needs `instances`")
    objects, groups = item["instances"], []
    for number, sentence in enumerate(item["expressions"]):
        masks = objects.gt_masks.tensor[objects.gt_classes == number]
        target = masks.any(0) if len(masks) else torch.zeros(item["image"].shape[-2:])
        groups.append(Group(sentence, [{**item, "target": target}], False))
    return groups
