"""Results: boxes, conversions that COCO's and Detectron2's tools read, drawings, comparison."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator
from detectron2.utils.visualizer import Visualizer
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hipie import __version__, visualizer
from hipie.result_files import is_result_file, replace_file
from hipie.segmentation import Segment, Segmentation

HEIGHT, WIDTH = 40, 60
NAMES = ("dog", "cat", "grass")


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


def example() -> Segmentation:
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    whole = rectangle(slice(5, 25), slice(10, 30))
    part = rectangle(slice(5, 10), slice(10, 20))
    segments = [
        Segment("dog", "thing", whole, 0.75, [Segment("dog head", "part", part, 0.5)]),
        Segment("the cat", "expression", np.zeros_like(whole), 0.0),
    ]
    return Segmentation(image, segments)


def panoptic_example() -> Segmentation:
    """Two dogs and grass around them, without overlap."""
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    dogs = [rectangle(slice(5, 25), slice(left, left + 15)) for left in (3, 30)]
    segments = [Segment("dog", "thing", mask, 0.9 - 0.1 * i) for i, mask in enumerate(dogs)]
    grass = Segment("grass", "stuff", ~(dogs[0] | dogs[1]), 0.7)
    return Segmentation(image, [*segments, grass], NAMES)


def test_boxes_enclose_masks() -> None:
    assert example().boxes.tolist() == [[10, 5, 30, 25], [0, 0, 0, 0]]
    assert example().areas.tolist() == [400, 0]


def test_parts_are_grouped_by_whole() -> None:
    assert [part.label for part in example().parts["dog"]] == ["dog head"]


def test_arrays_are_computed_once() -> None:
    result = example()
    for name in ("masks", "boxes", "scores", "labels", "areas", "parts", "overlay"):
        assert getattr(result, name) is getattr(result, name)
    segment = result.segments[0]
    assert segment.rle is segment.rle and segment.box is segment.box


def test_masks_are_painted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, painted = example(), []
    paint = visualizer._paint
    monkeypatch.setattr(visualizer, "_paint", lambda *args: painted.append(paint(*args)))
    result.draw("first title")
    result.save(tmp_path / "drawing.png", "second title")
    visualizer.draw_group([result], "the dog")
    assert len(painted) == 3


def test_results_are_frozen_and_comparable() -> None:
    result = example()
    assert result == example()
    changed = Segment("dog", "thing", ~result.segments[0].mask, 0.75, result.segments[0].parts)
    assert changed != result.segments[0] and changed != "dog"
    assert Segmentation(result.image, [changed]) != result and result != "dog"
    with pytest.raises(FrozenInstanceError):
        result.segments[0].mask = changed.mask
    with pytest.raises(FrozenInstanceError):
        result.segments = ()
    for unhashable in (result, changed):
        with pytest.raises(TypeError, match="unhashable"):
            hash(unhashable)


def test_coco_results_decode_to_the_masks() -> None:
    result = example()
    for converted, segment in zip(result.to_coco(), result, strict=True):
        assert np.array_equal(_decode(converted), segment.mask)
        assert converted["area"] == segment.mask.sum()
    assert result.to_coco()[0]["bbox"] == [10, 5, 20, 20]
    assert result.to_coco()[0]["parts"][0]["label"] == "dog head"
    assert not {"image_id", "category_id"} & set(result.to_coco()[0])


def test_coco_results_with_ids_are_evaluated_by_pycocotools(tmp_path: Path) -> None:
    result = panoptic_example()
    ids = {"dog": 18, "cat": 17, "grass": 193}
    results = [entry for entry in result.to_coco(7, ids) if entry["kind"] == "thing"]
    assert [entry["category_id"] for entry in results] == [18, 18]
    truth = COCO(_instance_truth(tmp_path, result, image_id=7, category_id=18))
    (tmp_path / "results.json").write_text(json.dumps(results))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_labels_without_a_category_id_are_named() -> None:
    result = example()
    with pytest.raises(ValueError, match='"the cat" has no category id; known are dog'):
        result.to_coco(1, {"dog": 1})
    ids = {"dog": 1, "the cat": 2}
    assert "category_id" not in result.to_coco(1, ids)[0]["parts"][0]
    assert result.to_coco(1, {**ids, "dog head": 3})[0]["parts"][0]["category_id"] == 3
    with pytest.raises(ValueError, match='"dog" has no category id'):
        result.to_instances({"cat": 0})
    with pytest.raises(ValueError, match='"dog" has no category id'):
        result.to_panoptic({"the cat": 0})


def test_empty_result_converts_to_empty_arrays() -> None:
    result = Segmentation(np.zeros((4, 6, 3), np.uint8), [])
    assert result.masks.shape == (0, 4, 6)
    assert result.boxes.shape == (0, 4)
    assert result.to_coco() == []
    assert len(result.to_instances()) == 0 and result.to_instances().pred_masks.shape == (0, 4, 6)
    panoptic, infos = result.to_panoptic()
    assert panoptic.shape == (4, 6) and not panoptic.any() and infos == []


def test_instances_leave_out_stuff_and_empty_masks() -> None:
    instances = panoptic_example().to_instances()
    assert instances.pred_classes.tolist() == [0, 0]
    assert instances.pred_masks.shape == (2, HEIGHT, WIDTH)
    assert instances.pred_boxes.tensor.tolist() == [[3, 5, 18, 25], [30, 5, 45, 25]]
    assert example().to_instances().scores.tolist() == [0.75]


def test_higher_score_wins_overlaps_of_the_panoptic_map() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    masks = [rectangle(slice(0, 20), slice(0, 20)), rectangle(slice(10, 30), slice(10, 30))]
    hidden = rectangle(slice(12, 15), slice(12, 15))
    segments = [
        Segment("dog", "thing", masks[0], 0.9),
        Segment("cat", "thing", masks[1], 0.5),
        Segment("cat", "thing", hidden, 0.1),
    ]
    panoptic, infos = Segmentation(image, segments).to_panoptic()
    assert panoptic.dtype == torch.int32
    assert [(info["id"], info["category_id"], info["area"]) for info in infos] == [
        (1, 0, 400),
        (2, 1, 300),
    ]
    assert (panoptic == 1).sum() == 400 and (panoptic == 2).sum() == 300


@pytest.fixture
def metadata(tmp_path: Path):
    """A data set of one image whose annotation is `panoptic_example`."""
    result, name = panoptic_example(), "segmentation_test_dogs"
    panoptic, infos = result.to_panoptic()
    ids = {0: 18, 1: 17, 2: 193}
    Image.fromarray(id2rgb(panoptic.numpy())).save(tmp_path / "truth.png")
    annotation = {
        "images": [{"id": 7, "file_name": "dogs.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [
            {"id": ids[i], "name": label, "isthing": int(i < 2)} for i, label in enumerate(NAMES)
        ],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "truth.png",
                "segments_info": [
                    {
                        "id": info["id"],
                        "category_id": ids[info["category_id"]],
                        "area": info["area"],
                        "iscrowd": 0,
                    }
                    for info in infos
                ],
            }
        ],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(annotation))
    DatasetCatalog.register(name, list)
    meta = MetadataCatalog.get(name).set(
        thing_classes=list(NAMES[:2]),
        stuff_classes=list(NAMES),
        thing_colors=[(0, 0, 0)] * 3,
        stuff_colors=[(0, 0, 0)] * 3,
        thing_dataset_id_to_contiguous_id={18: 0, 17: 1},
        stuff_dataset_id_to_contiguous_id={193: 2},
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(tmp_path),
        json_file=_instance_truth(tmp_path, result, image_id=7, category_id=18),
    )
    yield meta
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_detectron2_visualizer_draws_both_conversions(metadata) -> None:
    result = panoptic_example()
    drawn = Visualizer(result.image, metadata).draw_instance_predictions(result.to_instances())
    assert drawn.get_image().shape == result.image.shape
    panoptic, infos = result.to_panoptic()
    drawn = Visualizer(result.image, metadata).draw_panoptic_seg(panoptic, infos)
    assert not np.array_equal(drawn.get_image(), result.image)


def test_detectron2_panoptic_evaluator_scores_the_conversion(metadata) -> None:
    evaluator = COCOPanopticEvaluator(metadata.name)
    evaluator.reset()
    result = panoptic_example()
    inputs = [{"image_id": 7, "file_name": "dogs.jpg"}]
    evaluator.process(inputs, [{"panoptic_seg": result.to_panoptic()}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_detectron2_instance_evaluator_scores_the_conversion(metadata, tmp_path: Path) -> None:
    evaluator = COCOEvaluator(metadata.name, ("bbox", "segm"), False, str(tmp_path / "coco"))
    evaluator.reset()
    instances = panoptic_example().to_instances()
    evaluator.process([{"image_id": 7}], [{"instances": instances}])
    scores = evaluator.evaluate()
    assert scores["segm"]["AP"] == pytest.approx(100) == scores["bbox"]["AP"]


def test_saved_as_an_image_or_as_json(tmp_path: Path) -> None:
    result = example()
    drawing = Image.open(result.save(tmp_path / "new" / "drawing.png", "a title"))
    assert drawing.size == result.draw("a title").size
    written = json.loads(result.save(tmp_path / "results.json").read_text())
    settings = {"program": "hipie", "version": __version__}
    assert written == json.loads(json.dumps(result.to_dict(settings)))


def test_dict_of_a_result_holds_what_coco_holds() -> None:
    result = replace(panoptic_example(), file_name="dogs.jpg")
    part = replace(result.segments[0], label="dog head", kind="part")
    result = replace(result, segments=(replace(result.segments[0], parts=[part]), *result.segments))
    content = result.to_dict({"program": "a program"})
    assert content["image"] == {"file": "dogs.jpg", "width": WIDTH, "height": HEIGHT}
    assert content["settings"] == {"program": "a program"}
    first, *others = content["segments"]
    (head,) = first.pop("parts")
    assert [entry["id"] for entry in (first, head, *others)] == list(range(1, 3 + len(others)))
    assert head["category"] == "dog head" and head["category_id"] == len(result.class_names)
    for entry, coco in zip(content["segments"], result.to_coco(), strict=True):
        assert entry["category"] == coco["label"] == result.class_names[entry["category_id"]]
        shared = ("kind", "score", "bbox", "area", "segmentation")
        assert [entry[key] for key in shared] == [coco[key] for key in shared]


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    for link in (os.symlink, os.link):
        for name in ("out.json", "out.png"):
            notes = tmp_path / "notes"
            notes.write_text("mine")
            path = tmp_path / name
            path.unlink(missing_ok=True)
            link(notes, path)
            assert not is_result_file(path)
            with pytest.raises(ValueError, match="is not a result of hipie.*overwrite=True"):
                example().save(path)
            example().save(path, overwrite=True)
            assert notes.read_text() == "mine"
            assert not path.is_symlink() and is_result_file(path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "out.json", "out.png"}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.json", "a.webp"])
def test_files_of_the_user_are_replaced_on_request(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="is not a result of hipie"):
        example().save(path)
    assert path.read_text() == '{"settings": {}}'
    example().save(path, overwrite=True)
    if name != "a.webp":
        assert is_result_file(path)
        example().save(path, "the second one")
    picture = tmp_path / f"picture{path.suffix}"
    if path.suffix != ".json":
        Image.new("RGB", (9, 9)).save(picture)
        assert not is_result_file(picture)
    (tmp_path / "folder.png").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="is a folder"):
        example().save(tmp_path / "folder.png")


def test_the_image_itself_is_not_overwritten(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    os.symlink(tmp_path / "image.png", tmp_path / "link.png")
    result = replace(example(), file_name=str(tmp_path / "image.png"))
    for name in ("image.png", "link.png"):
        with pytest.raises(ValueError, match="is the image that was segmented"):
            result.save(tmp_path / name)


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    def fail(file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.json").write_text("before")
    with pytest.raises(ValueError, match="there is no space left"):
        replace_file(tmp_path / "a.json", fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    with pytest.raises(ValueError, match="drawings are written as"):
        example().save(tmp_path / "a.xyz")


def test_drawing_paints_the_mask_and_nothing_else() -> None:
    drawing = np.asarray(example().draw())
    scale = round(420 / 40)
    inside = drawing[20 * scale, 25 * scale]
    outside = drawing[35 * scale, 50 * scale]
    assert not np.array_equal(inside, [200, 200, 200])
    assert np.array_equal(outside, [200, 200, 200])


def _decode(converted: dict) -> np.ndarray:
    from pycocotools import mask as coco_mask

    return coco_mask.decode(converted["segmentation"]).astype(bool)


def _instance_truth(folder: Path, result: Segmentation, image_id: int, category_id: int) -> str:
    """Write COCO instances of the things of a result, and return the file."""
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "iscrowd": 0,
            "bbox": converted["bbox"],
            "area": converted["area"],
            "segmentation": converted["segmentation"],
        }
        for number, converted in enumerate(result.to_coco(), 1)
        if converted["kind"] == "thing"
    ]
    truth = {
        "info": {},
        "images": [{"id": image_id, "file_name": "dogs.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(truth))
    return str(folder / "instances.json")
