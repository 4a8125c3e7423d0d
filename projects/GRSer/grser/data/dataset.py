"""Registered data sets as groups: records and mapper, for training and for test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from grser.data.dataset_mapper import GroupTestMapper, GroupTrainingMapper, ImageConfig
from grser.data.group_sampling import build_group_dataset
from hipie.data.datasets.grd import GroupQuestions

Data = tuple[Sequence[dict[str, Any]], Any]


def data_of(cfg: CfgNode, name: str, *, training: bool) -> Data | None:
    """Return records and mapper of a data set for GRSer.

    In training groups are built from every data set that allows it. At test the data sets with
    groups and the co-saliency sets are read by group, and others image by image, for which the
    result is None.

    Args:
        cfg: `INPUT` and `MODEL.GRSER` are used.
        name: a registered data set.
        training: whether the images have targets.

    Raises:
        ValueError: if no groups can be built from it in training.
    """
    keys, metadata = cfg.MODEL.GRSER, MetadataCatalog.get(name)
    image_config = ImageConfig.from_config(cfg, training=training)
    if training:
        dataset = build_group_dataset(name, DatasetCatalog.get(name), metadata)
        mapper = GroupTrainingMapper(
            dataset,
            image_config,
            images_per_group=keys.TRAIN.IMAGES_PER_GROUP,
            max_positives=keys.TRAIN.MAX_POSITIVES,
            negatives=keys.TRAIN.NEGATIVES,
            skip_broken=keys.SKIP_BROKEN,
        )
        return dataset.samples, mapper
    groupings = {"group": GroupQuestions, "cosaliency": folder_groups}
    grouping = groupings.get(metadata.get("evaluator_type"))
    if grouping is None:
        return None
    mapper = GroupTestMapper(image_config, skip_broken=keys.SKIP_BROKEN)
    return grouping(DatasetCatalog.get(name)), mapper


def folder_groups(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the images of a co-saliency set by folder; the folder's name is the expression."""
    folders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        folders[record["group_name"]].append(record)
    return [
        {
            "group_id": name,
            "group_name": name,
            "expression": images[0]["expressions"][0]["expression"],
            "sent_id": 0,
            "images": images,
        }
        for name, images in folders.items()
    ]
