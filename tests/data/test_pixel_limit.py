"""INPUT.MAX_PIXELS: one limit for every reader of images and maps, and memory of the readers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from hipie import add_hipie_config
from hipie.cli.data_check import read_report
from hipie.cli.files import readable_images
from hipie.data.annotation_expressions import make_expressions
from hipie.data.annotation_maps import (
    panoptic_ids,
    read_class_map,
    read_panoptic_map,
    require_segments,
    segment_ids,
)
from hipie.data.broken_images import set_reading_rules
from hipie.data.build import build_mapped_dataset
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.panoptic_parts import PartClass
from hipie.data.file_check import check_datasets, require_readable_maps
from hipie.data.image_io import (
    ImageError,
    distinct_values,
    read_image,
    read_label_map,
    read_saliency_mask,
    stored_values,
)
from hipie.data.io.reading_rules import MAX_PIXELS, ReadingRules, pixel_limit, read_by, rules_of
from hipie.data.show import write_sheets
from hipie.errors import HipieError, InputError
from hipie.evaluation.class_agnostic_recall import ClassAgnosticRecall
from hipie.evaluation.coco_evaluation import PanopticInstanceEvaluator
from hipie.evaluation.cosaliency_evaluation import CoSaliencyEvaluator
from hipie.evaluation.image_comparison import ImageComparer
from hipie.evaluation.panoptic_evaluation import PanopticEvaluator
from hipie.evaluation.part_evaluation import PartEvaluator
from hipie.evaluation.part_pq_evaluation import PartPQEvaluator
from hipie.evaluation.semantic_evaluation import SemanticEvaluator
from hipie.vocabularies.vocabulary import Vocabulary
from tests.fuzzing import make_panoptic
from tests.limits import call_limited

HEIGHT, WIDTH = 16, 24
PIXELS = HEIGHT * WIDTH
NAME = "test_pixel_limit"
TOO_MANY = rf"{WIDTH}x{HEIGHT} are too many pixels: at most {PIXELS - 1} are read \(INPUT\.MAX_"


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """An image of one object, annotated in every way."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:8] = 200
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:8] = 1
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(np.dstack([labels, 0 * labels, 0 * labels])).save(tmp_path / "panoptic.png")
    Image.fromarray(labels.astype(np.uint16) * 1001).save(tmp_path / "uids.png")
    Image.fromarray(labels * 255).save(tmp_path / "mask.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
    }


@pytest.fixture
def registered(record: dict[str, Any]) -> Any:
    """A function that registers a data set of the record and more fields."""

    def register(task: str = "", **fields: Any) -> str:
        folder = Path(record["file_name"]).parent
        entry = {
            **record,
            **{k: str(folder / v) if k.endswith("file_name") else v for k, v in fields.items()},
        }
        DatasetCatalog.register(NAME, lambda: [entry])
        MetadataCatalog.get(NAME).set(
            vocabulary=Vocabulary.from_names(things=["dog"], stuff=["sky"]),
            thing_classes=["dog"],
            stuff_classes=["dog", "sky"],
            unseen_classes=["dog"],
            part_pq_classes=[PartClass("dog", (1,), True)],
            evaluator_type=task,
        )
        return NAME

    yield register
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


SEGMENTS = [{"id": 1, "category_id": 0, "isthing": True, "iscrowd": 0}]
PANOPTIC = {"pan_seg_file_name": "panoptic.png", "segments_info": SEGMENTS}
SEMANTIC = {"sem_seg_file_name": "labels.png"}
ITEM = {"image_id": 1}


def _instances() -> Instances:
    masks = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    masks[:, :8] = True
    scores, classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    return Instances((HEIGHT, WIDTH), pred_masks=masks, scores=scores, pred_classes=classes)


def _process(evaluator: Any, output: dict[str, Any]) -> None:
    records = DatasetCatalog.get(NAME)
    evaluator.reset()
    evaluator.process([{**ITEM, "file_name": records[0]["file_name"]}], [output])


SCORES = {"sem_seg": torch.rand(2, HEIGHT, WIDTH)}
MAP = torch.ones(HEIGHT, WIDTH, dtype=torch.int32)
PANOPTIC_OUTPUT = {"panoptic_seg": (MAP, [{"id": 1, "category_id": 0, "isthing": True}])}


def _compare(cfg: CfgNode) -> None:
    comparer = ImageComparer(cfg, NAME)
    comparer.compare(ITEM, DatasetCatalog.get(NAME)[0], {"panoptic_seg": (MAP, [])})


EVALUATIONS: dict[str, tuple[dict[str, Any], Callable[[CfgNode], object]]] = {
    "semantic": (SEMANTIC, lambda cfg: _process(SemanticEvaluator(NAME), SCORES)),
    "semantic of panoptic": (PANOPTIC, lambda cfg: _process(SemanticEvaluator(NAME), SCORES)),
    "parts": (
        {"part_seg_file_name": "labels.png"},
        lambda cfg: _process(PartEvaluator(NAME), SCORES),
    ),
    "PartPQ": (
        {"pan_part_file_name": "uids.png"},
        lambda cfg: _process(PartPQEvaluator(NAME), {**PANOPTIC_OUTPUT, "part_seg": 0 * MAP}),
    ),
    "PQ": (PANOPTIC, lambda cfg: _process(PanopticEvaluator(NAME), PANOPTIC_OUTPUT)),
    "recall": (
        PANOPTIC,
        lambda cfg: _process(ClassAgnosticRecall(NAME), {"instances": _instances()}),
    ),
    "AP": (PANOPTIC, lambda cfg: PanopticInstanceEvaluator(NAME).ground_truth()),
    "co-saliency": (
        {"saliency_file_name": "mask.png"},
        lambda cfg: _process(CoSaliencyEvaluator(NAME), {"sem_seg": torch.ones(1, HEIGHT, WIDTH)}),
    ),
    "comparison": ({**PANOPTIC, "task": "coco_panoptic_seg"}, _compare),
    "mapper at test": (
        SEMANTIC,
        lambda cfg: build_mapped_dataset(cfg, NAME, False).mapper(DatasetCatalog.get(NAME)[0]),
    ),
    "sampled check": (SEMANTIC, lambda cfg: check_datasets(cfg)),
}


def _config(max_pixels: int) -> CfgNode:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.INPUT.MAX_PIXELS = max_pixels
    cfg.MODEL.META_ARCHITECTURE = "HIPIE"
    cfg.MODEL.HIPIE.TEXT.SOURCE = "minilm"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    return cfg


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_and_checks_have_the_limit_of_the_configuration(
    name: str, registered: Any
) -> None:
    fields, read = EVALUATIONS[name]
    registered(**fields)
    cfg = _config(PIXELS)
    set_reading_rules(NAME, rules_of(cfg))
    read(cfg)
    cfg = _config(PIXELS - 1)
    set_reading_rules(NAME, rules_of(cfg))
    with pytest.raises(InputError, match=TOO_MANY):
        read(cfg)


def test_data_check_and_show_have_the_limit(registered: Any, tmp_path: Path) -> None:
    registered(**SEMANTIC)
    arguments = argparse.Namespace(
        dataset=NAME, split=None, images=None, count=None, config_file=None, imports=[], opts=[]
    )
    arguments.opts = ["MODEL.HIPIE.TEXT.SOURCE", "minilm", "INPUT.MAX_PIXELS", str(PIXELS)]
    assert not read_report(arguments).invalid
    arguments.opts[-1] = str(PIXELS - 1)
    (message,) = read_report(arguments).invalid
    assert "are too many pixels" in message and "INPUT.MAX_PIXELS" in message
    records, metadata = DatasetCatalog.get(NAME), MetadataCatalog.get(NAME)
    with pytest.raises(ImageError, match=TOO_MANY):
        write_sheets(records, metadata, NAME, tmp_path / "sheets")
    annotated = {**records[0], "annotations": []}
    with pytest.raises(ImageError, match=TOO_MANY):
        make_expressions(annotated, metadata)


def test_readers_of_data_sets_have_the_limit(tmp_path: Path) -> None:
    json_file, _ = make_panoptic(tmp_path)

    def read() -> object:
        return load_coco_panoptic(json_file, tmp_path / "maps", tmp_path, {1: 0, 2: 1})

    with read_by(ReadingRules(max_pixels=PIXELS)):
        read()
    with read_by(ReadingRules(max_pixels=PIXELS - 1)), pytest.raises(HipieError, match=TOO_MANY):
        read()


def test_images_that_are_read_again_have_the_limit(record: dict[str, Any]) -> None:
    file = record["file_name"]
    assert readable_images([file], True, PIXELS) == [file]
    with pytest.raises(InputError, match=TOO_MANY):
        readable_images([file], True, PIXELS - 1)


def test_the_default_holds_outside_of_rules_and_of_none(record: dict[str, Any]) -> None:
    assert pixel_limit() == pixel_limit(None) == MAX_PIXELS == _default_key()
    assert pixel_limit(7) == 7
    with read_by(ReadingRules(max_pixels=5)):
        assert pixel_limit() == 5 and pixel_limit(7) == 7
        with read_by(None):
            assert pixel_limit() == 5
    with read_by(ReadingRules(max_pixels=PIXELS - 1)):
        assert read_image(record["file_name"], PIXELS).shape == (HEIGHT, WIDTH, 3)


def _default_key() -> int:
    cfg = get_cfg()
    add_hipie_config(cfg)
    default: int = cfg.INPUT.MAX_PIXELS
    return default


SIDE = 4096
MAPS: dict[str, tuple[str, Callable[[Path], Any], int]] = {
    # mode, reader, bytes of a pixel that Pillow and the result need
    "panoptic": ("RGB", read_panoptic_map, 4 + 3),
    "panoptic with alpha": ("RGBA", read_panoptic_map, 4 + 3),
    "image": ("RGB", read_image, 4 + 3),
    "image with alpha": ("RGBA", read_image, 4 + 3),
    "label map of colours": ("RGB", read_label_map, 4 + 3),
    "label map of 32 bits": ("I", read_label_map, 4 + 4),
    "class map": ("L", read_class_map, 1 + 1),
    "class map of a palette": ("P", read_class_map, 1 + 1),
    "class map of 16 bits": ("I;16", read_class_map, 2 + 2),
    "class map of three channels": ("RGB", read_class_map, 4 + 1),
    "class map with alpha": ("LA", read_class_map, 4 + 1),
    "mask": ("L", read_saliency_mask, 1 + 1),
    "mask of a palette": ("P", read_saliency_mask, 1 + 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_converted_in_strips(name: str, tmp_path: Path) -> None:
    """The process has the decoded image, the result and 24 MiB for strips and buffers."""
    mode, read, size = MAPS[name]
    suffix = "tif" if mode == "I" else "png"
    path = tmp_path / f"map.{suffix}"
    options = {"compression": "tiff_adobe_deflate"} if mode == "I" else {"compress_level": 1}
    color = (0, 255) if mode == "LA" else (*[0] * 3, 255)[: len(mode)] if mode == "RGBA" else 0
    Image.new(mode, (SIDE, SIDE), color).save(path, **options)
    read(path)  # and import what it needs
    megabytes = size * SIDE * SIDE // 2**20
    result = call_limited(_shape_of, read, path, mebibytes=megabytes + 24)
    assert result.startswith(f"returned ({SIDE}, {SIDE}"), result


def _shape_of(read: Callable[[Path], Any], path: Path) -> tuple[int, ...]:
    return tuple(read(path).shape)


def test_segments_of_large_maps_are_found_in_strips() -> None:
    colours = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours[1000:, :, 0] = 7
    path = "map.png"

    def find() -> set[int]:
        return require_segments(path, colours, [{"id": 7}, {"id": 9}])

    assert call_limited(find, mebibytes=24) == "returned {9}"
    ids = 4 * SIDE * SIDE // 2**20
    assert call_limited(lambda: panoptic_ids(colours).shape, mebibytes=ids + 24) == (
        f"returned ({SIDE}, {SIDE})"
    )
    assert call_limited(distinct_values, colours[:, :, 0], mebibytes=24) == "returned {0, 7}"


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "F"])
def test_strips_have_the_values_of_the_whole(mode: str) -> None:
    height, width = 700, 31  # of three strips
    rng = np.random.default_rng(0)
    size = {"LA": 2, "RGB": 3, "RGBA": 4, "I": 4, "F": 4, "I;16": 2, "I;16B": 2}.get(mode, 1)
    if mode in ("1", "P", "LA"):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
    else:
        image = Image.frombytes(mode, (width, height), rng.bytes(height * width * size))
    expected, actual = np.array(image), stored_values(image)
    assert actual.dtype == expected.dtype
    assert np.array_equal(actual, expected, equal_nan=mode == "F")


def test_ids_in_strips_are_those_of_the_whole() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (700, 5, 3), dtype=np.uint8)
    expected = colours.astype(np.int64) @ (1, 256, 65536)
    assert np.array_equal(panoptic_ids(colours), expected)
    assert segment_ids(colours) == distinct_values(expected) == set(np.unique(expected).tolist())


def test_a_palette_keeps_its_numbers_and_bad_strips_are_found(tmp_path: Path) -> None:
    labels = np.zeros((600, 8), np.uint8)
    labels[590] = 3
    image = Image.fromarray(labels, "P")
    image.putpalette([255, 0, 0] * 4)
    image.save(tmp_path / "palette.png")
    assert np.array_equal(read_class_map(tmp_path / "palette.png"), labels)
    colours = np.dstack([labels] * 3)
    colours[599, 7, 2] = 9
    Image.fromarray(colours).save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match="has colours instead of class numbers"):
        read_class_map(tmp_path / "colours.png")
    with pytest.raises(InputError, match=r"large\.png: 10000x5001 are too many pixels"):
        require_readable_maps([{"sem_seg_file_name": str(_large(tmp_path))}], 2, 255)


def _large(folder: Path) -> Path:
    path = folder / "large.png"
    Image.new("1", (10_000, 5_001)).save(path)
    return path
