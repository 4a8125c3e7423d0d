"""Registered data sets as groups: records and mapper, for training and for test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from grser.data.dataset_mapper import GroupTestMapper, GroupTrainingMapper, ImageConfig
from grser.data.group_sampling import build_group_dataset
from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.datasets.grd import GroupSamples
from hipie.data.record_list import read_records, share_records


def has_groups(dataset_name: str) -> bool:
    """Return whether a registered data set has groups of images of its own."""
    return MetadataCatalog.get(dataset_name).get("evaluator_type") in GROUPINGS


@DATASET_MAPPER_REGISTRY.register()
def grser_groups(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build records and mapper of groups of images with an expression.

    In training groups are built from every data set that allows it, at test from those with groups.

    Args:
        cfg: `INPUT` and `MODEL.GRSER` are used.
        dataset_name: a registered data set.
        training: whether the images have targets.

    Raises:
        ValueError: if no groups can be built from the data set in training.
    """
    keys, metadata = cfg.MODEL.GRSER, MetadataCatalog.get(dataset_name)
    image_config = ImageConfig.from_config(cfg, training=training)
    if not training:
        mapper = GroupTestMapper(image_config, skip_broken=keys.SKIP_BROKEN)
        return MappedDataset(GROUPINGS[metadata.evaluator_type](dataset_name), mapper)
    dataset = build_group_dataset(dataset_name, read_records(dataset_name), metadata)
    # Every process builds the samples, and keeps those that the processes of a machine share.
    samples = share_records(lambda: dataset.samples)
    dataset.samples = []
    training_mapper = GroupTrainingMapper(
        dataset,
        image_config,
        images_per_group=keys.TRAIN.IMAGES_PER_GROUP,
        max_positives=keys.TRAIN.MAX_POSITIVES,
        negatives=keys.TRAIN.NEGATIVES,
        skip_broken=keys.SKIP_BROKEN,
    )
    return MappedDataset(samples, training_mapper)


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


# Evaluator type of a data set with groups -> function that reads its groups.
GROUPINGS: dict[str, Callable[[str], Sequence[dict[str, Any]]]] = {
    "group": lambda dataset_name: GroupSamples(read_records(dataset_name)),
    "cosaliency": lambda dataset_name: read_records(dataset_name, folder_groups),
}
