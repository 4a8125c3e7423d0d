"""Co-saliency sets read from disk and evaluated, for every form of outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.cosaliency import load_cosaliency
from hipie.data.image_io import read_record_image
from hipie.evaluation import CoSaliencyEvaluator
from tests import referring_trees as trees
from tests.evaluation.referring_sets import make_prediction

TRUTH = [trees.mask_of(number) for number in (0, 1, 11, 12)]


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    trees.write_cosod(tmp_path)
    (tmp_path / "CoCA/binary").rename(tmp_path / "CoCA/gt")
    records = load_cosaliency(tmp_path / "CoCA")
    register_dataset("hand_made_cosaliency", lambda: records, evaluator_type="cosaliency")
    return records


def evaluate(inputs: list[dict], outputs: list) -> dict[str, float]:
    evaluator = CoSaliencyEvaluator("hand_made_cosaliency")
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()["cosaliency"]


def test_perfect_maps(records: list[dict]) -> None:
    scores = evaluate(
        records, [{"sem_seg": torch.from_numpy(mask)[None].float()} for mask in TRUTH]
    )
    assert scores["MAE"] == 0 and scores["S"] == pytest.approx(1) and scores["F_max"] == 1
    assert scores["images"] == 4


def test_masks_of_expressions_are_maps(records: list[dict]) -> None:
    size = trees.HEIGHT, trees.WIDTH
    arrays = [{"referring": [make_prediction([mask], size, as_rle=False)]} for mask in TRUTH]
    rles = [{"referring": [make_prediction([mask], size, as_rle=True)]} for mask in TRUTH]
    assert evaluate(records, arrays) == evaluate(records, rles)
    assert evaluate(records, arrays)["MAE"] == 0


def test_groups_with_repeated_and_rejected_images(records: list[dict]) -> None:
    first, second = records[:2], records[2:]
    groups = [{"images": [*first, first[0]]}, {"images": second}]
    maps = [{"sem_seg": torch.from_numpy(mask)[None].float()} for mask in TRUTH]
    rejected = {**maps[3], "positive": False}
    scores = evaluate(groups, [[maps[0], maps[1], maps[0]], [maps[2], rejected]])
    assert scores["images"] == 4
    assert scores["MAE"] == pytest.approx(TRUTH[3].mean() / 4)


def test_map_that_is_not_finite_counts_as_zero(records: list[dict]) -> None:
    maps = [{"sem_seg": torch.from_numpy(mask)[None].float()} for mask in TRUTH]
    maps[0]["sem_seg"] = torch.full((1, trees.HEIGHT, trees.WIDTH), float("nan"))
    scores = evaluate(records, maps)
    assert scores["MAE"] == pytest.approx(TRUTH[0].mean() / 4)
    assert all(np.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB"])
def test_masks_of_every_mode_and_size(records: list[dict], tmp_path: Path, mode: str) -> None:
    first = Path(records[0]["saliency_file_name"])
    mask = Image.fromarray(TRUTH[0].astype(np.uint8) * 255)
    mask.resize((2 * trees.WIDTH, 2 * trees.HEIGHT), Image.Resampling.NEAREST).convert(mode).save(
        first
    )
    again = load_cosaliency(tmp_path / "CoCA")
    assert (again[0]["height"], again[0]["width"]) == (trees.HEIGHT, trees.WIDTH)
    scores = evaluate(again, [{"sem_seg": torch.from_numpy(mask)[None].float()} for mask in TRUTH])
    assert scores["F_max"] > 0.99 and scores["MAE"] < 0.01


def test_rotated_photograph_has_its_displayed_size(records: list[dict], tmp_path: Path) -> None:
    first = Path(records[0]["file_name"])
    stored = Image.open(first).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored.save(first, exif=exif)
    again = load_cosaliency(tmp_path / "CoCA")[0]
    assert Image.open(first).size == (trees.HEIGHT, trees.WIDTH)
    assert read_record_image(again).shape[:2] == (trees.HEIGHT, trees.WIDTH)


def test_damaged_mask_is_refused(records: list[dict]) -> None:
    Path(records[0]["saliency_file_name"]).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"alarm_clock_0\.x\.png: this mask cannot be read"):
        evaluate(records[:1], [{"sem_seg": torch.zeros(1, trees.HEIGHT, trees.WIDTH)}])


def test_image_without_a_mask_is_refused(tmp_path: Path, records: list[dict]) -> None:
    Path(records[0]["saliency_file_name"]).unlink()
    with pytest.raises(ValueError, match=r"alarm_clock_0\.x\.jpg: there is no mask"):
        load_cosaliency(tmp_path / "CoCA")
    with pytest.raises(ValueError, match=r"alarm_clock_0\.x\.png"):
        evaluate(records[:1], [{"sem_seg": torch.zeros(1, 30, 40)}])
