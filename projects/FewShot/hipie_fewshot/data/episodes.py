"""Few-shot episodes of registered data sets: a query image, a class and support examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import NoOpTransform

from hipie.data.annotation_maps import read_class_map, read_panoptic_map
from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.image_io import image_to_tensor, read_record_image, require_map_size
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie_fewshot.support_set import Example

Record = dict[str, Any]
BACKGROUND = "background"
# Key of the list of objects of a record, by a key that only records of its kind have.
OBJECT_LISTS = {"pan_seg_file_name": "segments_info", "annotations": "annotations"}
SEMANTIC = "sem_seg_file_name"


@DATASET_MAPPER_REGISTRY.register()
def few_shot_episodes(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Draw the episodes of a data set with instances or semantic maps, and build their mapper.

    Args:
        cfg: reads MODEL.FEWSHOT.EPISODES.
        dataset_name: a name in Detectron2's catalogs.
        training: has to be False.

    Raises:
        ValueError: in training; for a data set without instances and semantic maps, or without a
            class that is in more images than there are shots; for a fold out of range.
    """
    if training:
        raise InputError("FewShot is not trained; use --eval-only")
    settings = cfg.MODEL.FEWSHOT.EPISODES
    if not 0 <= settings.FOLD < settings.FOLDS:
        raise InputError(
            f"MODEL.FEWSHOT.EPISODES.FOLD is {settings.FOLD}; with FOLDS {settings.FOLDS} it is 0 "
            f"to {settings.FOLDS - 1}"
        )
    if min(settings.SHOTS, settings.NUMBER) < 1:
        raise InputError("MODEL.FEWSHOT.EPISODES.SHOTS and NUMBER have to be at least 1")
    episodes = read_records(dataset_name, partial(_build_episodes, dataset_name, settings))
    metadata = MetadataCatalog.get(dataset_name)
    semantic = len(episodes) > 0 and is_semantic(episodes[0]["query"])
    class_names = metadata.get("stuff_classes" if semantic else "thing_classes") or ()
    return MappedDataset(episodes, EpisodeMapper(class_names))


def _build_episodes(dataset_name: str, settings: CfgNode, records: list[Record]) -> list[Record]:
    """Draw the episodes from the records of a data set."""
    metadata = MetadataCatalog.get(dataset_name)
    keys = (*OBJECT_LISTS, SEMANTIC)
    if not any(key in record for record in records[:1] for key in keys):
        raise InputError(
            f"the data set {dataset_name} ({metadata.get('evaluator_type')}) has no instances and "
            "no semantic maps to use as examples"
        )
    ignored: set[int] = set()
    names = list(metadata.get("thing_classes") or ())
    if is_semantic(records[0]):
        names = list(metadata.get("stuff_classes") or ())
        ignored = {metadata.get("ignore_label", 255)}
        ignored |= {names.index(BACKGROUND)} if BACKGROUND in names else set()
    images_by_class = {
        class_id: images
        for class_id, images in index_images_by_class(records, ignored).items()
        if len(images) > settings.SHOTS
    }
    # Classes of a fold are numbered without the background.
    last = max([*images_by_class, len(names) - 1])
    classes = [label for label in range(last + 1) if label not in ignored]
    fold = fold_of_classes(len(classes), settings.FOLD, settings.FOLDS, settings.CONSECUTIVE)
    kept = {classes[position] for position in fold}
    images_by_class = {label: rows for label, rows in images_by_class.items() if label in kept}
    if not images_by_class:
        raise InputError(
            f"no class of the data set {dataset_name} is in more than {settings.SHOTS} image(s), "
            "so that there are no episodes"
        )
    return [
        {
            "class_id": class_id,
            "query": records[query],
            "support": [records[index] for index in support],
        }
        for class_id, query, support in draw_episodes(
            images_by_class, settings.NUMBER, settings.SHOTS, settings.SEED
        )
    ]


def fold_of_classes(count: int, fold: int, folds: int, consecutive: bool) -> list[int]:
    """Return the classes of a fold.

    Args:
        count: number of classes.
        fold: from 0.
        folds: number of folds.
        consecutive: equal parts of consecutive classes (PASCAL-5i; Shaban et al., BMVC 2017), in
            place of every `folds`-th class (COCO-20i; Nguyen and Todorovic, ICCV 2019).
    """
    if not consecutive:
        return list(range(fold, count, folds))
    return list(range(count * fold // folds, count * (fold + 1) // folds))


def is_semantic(record: Record) -> bool:
    """Whether the classes of a record are those of a semantic map, since it has no instances."""
    return SEMANTIC in record and not any(key in record for key in OBJECT_LISTS)


def index_images_by_class(
    records: Sequence[Record], ignored: Collection[int] = ()
) -> dict[int, list[int]]:
    """Index the records that contain each class.

    Args:
        records: with instances, of which crowds do not count, or semantic maps.
        ignored: values of semantic maps that are no class.
    """
    images: dict[int, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        if is_semantic(record):
            present = set(np.unique(read_class_map(record[SEMANTIC])).tolist()) - set(ignored)
        else:
            present = {thing["category_id"] for thing in _things(record)}
        for class_id in sorted(present):
            images[class_id].append(index)
    return dict(sorted(images.items()))


def draw_episodes(
    images_by_class: dict[int, list[int]], number: int, shots: int, seed: int
) -> list[tuple[int, int, list[int]]]:
    """Draw episodes: a class uniformly, then different images of it.

    Args:
        images_by_class: image indices of each class, more than `shots`.
        number: of episodes.
        shots: support images of each.
        seed: of the random draws.

    Returns:
        Class, query image and support images of each episode.
    """
    rng = np.random.default_rng(seed)
    classes = list(images_by_class)
    episodes = []
    for _ in range(number):
        class_id = classes[rng.integers(len(classes))]
        query, *support = rng.choice(images_by_class[class_id], shots + 1, replace=False).tolist()
        episodes.append((class_id, query, support))
    return episodes


class EpisodeMapper:
    """Map an episode to a query image, its ground truth and support examples.

    Args:
        class_names: names of the classes, if they are known.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.class_names = tuple(class_names)

    def __call__(self, episode: dict[str, Any]) -> dict[str, Any]:
        """Read the images and masks of an episode.

        Returns:
            A dict with `image` [3, H, W] RGB, `target` [H, W] bool, `examples`, `class_id` and the
            query record's `file_name`, `height`, `width` and `image_id`.

        Raises:
            ValueError: naming the file, if a file cannot be read; or if an example's mask is empty.
        """
        query, class_id = episode["query"], episode["class_id"]
        known = class_id < len(self.class_names)
        label = self.class_names[class_id] if known else f"class {class_id}"
        return {
            **{key: query[key] for key in ("file_name", "height", "width", "image_id")},
            "class_id": class_id,
            "image": image_to_tensor(read_record_image(query), "RGB"),
            "target": class_mask(query, class_id),
            "examples": [
                Example(read_record_image(record), class_mask(record, class_id), label)
                for record in episode["support"]
            ],
        }


def class_mask(record: Record, class_id: int) -> np.ndarray:
    """Compute the union of the masks of a class in an image: [H, W] bool."""
    if is_semantic(record):
        labels: np.ndarray = read_class_map(record[SEMANTIC])
        require_map_size(record[SEMANTIC], labels.shape, (record["height"], record["width"]))
        return labels == class_id
    things = [thing for thing in _things(record) if thing["category_id"] == class_id]
    transform = NoOpTransform()
    if "pan_seg_file_name" in record:
        labels = read_panoptic_map(record["pan_seg_file_name"])
        masks, _ = panoptic_masks(labels, things, transform)
    else:
        masks, _ = instance_masks(things, record["height"], record["width"], transform)
    if not len(masks):
        return np.zeros((record["height"], record["width"]), bool)
    union: np.ndarray = masks.any(0)
    return union


def _things(record: Record) -> list[Record]:
    objects = record[next(name for key, name in OBJECT_LISTS.items() if key in record)]
    return [o for o in objects if not o.get("iscrowd", 0) and o.get("isthing", True)]
