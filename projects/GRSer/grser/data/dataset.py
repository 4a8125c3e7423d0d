"""Registered data sets as groups: records and mapper, for training and for test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from grser.data.dataset_mapper import AskedGroups, Sizes, TrainingGroups
from grser.data.group_sampling import questions_of
from hipie.data.datasets.grd import GroupQuestions

Data = tuple[Sequence[dict[str, Any]], Any]


def data_of(cfg: CfgNode, name: str, *, training: bool) -> Data | None:
    """Records and mapper of a data set for GRSer.

    In training every data set that groups can be made of. At test those that have groups; others
    are read image by image, for which there is None.

    Args:
        cfg: reads INPUT and MODEL.GRSER.
        name: a registered data set.
        training: whether images get their targets.

    Raises:
        ValueError: if no groups can be made of it in training.
    """
    keys, metadata = cfg.MODEL.GRSER, MetadataCatalog.get(name)
    sizes = Sizes(
        shortest=tuple(cfg.INPUT.MIN_SIZE_TRAIN) if training else (cfg.INPUT.MIN_SIZE_TEST,),
        longest=cfg.INPUT.MAX_SIZE_TRAIN if training else cfg.INPUT.MAX_SIZE_TEST,
        square=cfg.INPUT.SQUARE_SIZE,
        image_format=cfg.INPUT.FORMAT,
        mirror=cfg.INPUT.EXPRESSION_FLIP_PROB,
    )
    if training:
        found = questions_of(name, DatasetCatalog.get(name), metadata)
        mapper = TrainingGroups(
            found,
            sizes,
            images=keys.TRAIN.IMAGES,
            most_positives=keys.TRAIN.MOST_POSITIVES,
            negatives=keys.TRAIN.NEGATIVES,
            skip_broken=keys.SKIP_BROKEN,
        )
        return found.asked, mapper
    groupings = {"group": GroupQuestions, "cosaliency": folders}
    grouping = groupings.get(metadata.get("evaluator_type"))
    if grouping is None:
        return None
    return grouping(DatasetCatalog.get(name)), AskedGroups(sizes, skip_broken=keys.SKIP_BROKEN)


def folders(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A group for every folder of a co-saliency set, asked by the folder's name in words."""
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        members[record["group_name"]].append(record)
    return [
        {
            "group_id": name,
            "group_name": name,
            "expression": images[0]["expressions"][0]["expression"],
            "sent_id": 0,
            "images": images,
        }
        for name, images in members.items()
    ]
