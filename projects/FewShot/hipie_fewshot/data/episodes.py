"""Registered data sets as episodes: an image, a class, and examples of it in other images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.dataset_mappers.annotations import annotated_objects, panoptic_objects, read_labels
from hipie.data.dataset_mappers.image_loading import as_tensor, read_record_image
from hipie_fewshot.support_set import Example

Record = dict[str, Any]
THINGS_OF = {"pan_seg_file_name": "segments_info", "annotations": "annotations"}


@DATASET_MAPPER_REGISTRY.register()
def few_shot_episodes(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the episodes of a data set with instances, and their mapper.

    Raises:
        ValueError: in training; for a data set without instances, or one in which no class is in
            enough images; for a fold that is none.
    """
    if training:
        raise ValueError("FewShot is not trained; use --eval-only")
    keys = cfg.MODEL.FEWSHOT.EPISODES
    if not 0 <= keys.FOLD < keys.FOLDS:
        raise ValueError(
            f"MODEL.FEWSHOT.EPISODES.FOLD is {keys.FOLD}; with FOLDS {keys.FOLDS} it is 0 to "
            f"{keys.FOLDS - 1}"
        )
    if min(keys.SHOTS, keys.NUMBER) < 1:
        raise ValueError("MODEL.FEWSHOT.EPISODES.SHOTS and NUMBER have to be at least 1")
    records = DatasetCatalog.get(dataset_name)
    if not any(key in record for record in records[:1] for key in THINGS_OF):
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        raise ValueError(
            f"the data set {dataset_name} ({kind}) has no instances to show as examples"
        )
    images = {
        number: where
        for number, where in images_of_classes(records).items()
        if number % keys.FOLDS == keys.FOLD and len(where) > keys.SHOTS
    }
    if not images:
        raise ValueError(
            f"no class of the data set {dataset_name} is in more than {keys.SHOTS} image(s), so that "
            "there are no episodes"
        )
    drawn = draw_episodes(images, keys.NUMBER, keys.SHOTS, keys.SEED)
    episodes = [
        {"class_id": number, "query": records[query], "shown": [records[one] for one in shown]}
        for number, query, shown in drawn
    ]
    names = MetadataCatalog.get(dataset_name).get("thing_classes") or ()
    return MappedDataset(episodes, EpisodeMapper(names))


def images_of_classes(records: Sequence[Record]) -> dict[int, list[int]]:
    """Numbers of the records that show a thing of each class; crowds do not count."""
    found: dict[int, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        for number in sorted({one["category_id"] for one in _things(record)}):
            found[number].append(place)
    return dict(sorted(found.items()))


def draw_episodes(
    images: dict[int, list[int]], number: int, shots: int, seed: int
) -> list[tuple[int, int, list[int]]]:
    """Class, query and examples of each episode: the class first, then different images of it.

    Args:
        images: of each class more than `shots`.
        number: of episodes.
        shots: examples of each.
        seed: decides all draws.
    """
    rng = np.random.default_rng(seed)
    classes = list(images)
    episodes = []
    for _ in range(number):
        chosen = classes[rng.integers(len(classes))]
        query, *shown = rng.choice(images[chosen], shots + 1, replace=False).tolist()
        episodes.append((chosen, query, shown))
    return episodes


class EpisodeMapper:
    """An episode -> the image, the truth, and the examples.

    Args:
        names: of the classes, if they are known.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)

    def __call__(self, episode: dict[str, Any]) -> dict[str, Any]:
        """A dict with `image` [3, H, W] RGB, `target` [H, W] bool, `examples` and `class_id`.

        Raises:
            ValueError: naming the file, if a file cannot be read; or if an example's mask is empty.
        """
        query, number = episode["query"], episode["class_id"]
        label = self.names[number] if number < len(self.names) else f"class {number}"
        return {
            **{key: query[key] for key in ("file_name", "height", "width", "image_id")},
            "class_id": number,
            "image": as_tensor(read_record_image(query), "RGB"),
            "target": class_mask(query, number),
            "examples": [
                Example(read_record_image(one), class_mask(one, number), label)
                for one in episode["shown"]
            ],
        }


def class_mask(record: Record, number: int) -> np.ndarray:
    """Everything of a class in an image: [H, W] bool."""
    chosen = [one for one in _things(record) if one["category_id"] == number]
    still = NoOpTransform()
    if "pan_seg_file_name" in record:
        masks, _ = panoptic_objects(read_labels(record["pan_seg_file_name"]), chosen, still)
    else:
        masks, _ = annotated_objects(chosen, record["height"], record["width"], still)
    return masks.any(0) if len(masks) else np.zeros((record["height"], record["width"]), bool)


def _things(record: Record) -> list[Record]:
    listed = next(listed for key, listed in THINGS_OF.items() if key in record)
    return [one for one in record[listed] if not one.get("iscrowd", 0) and one.get("isthing", True)]
