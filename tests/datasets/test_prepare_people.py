"""Parts of persons: label maps made from the files as distributed, and their evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import model_zoo
from hipie.data.check import check_records
from hipie.data.datasets import register_public_datasets
from hipie.data.image_io import read_label_map
from hipie.evaluation import build_evaluator
from tests.datasets.test_prepare_labels import program, run, times

RED, GREEN, BLUE, YELLOW, CYAN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)
DARK_RED = (127, 0, 0)
# Drawn by column: background, hair, skin, nose, eyes, mouth.
FACE_COLOURS = [RED, DARK_RED, YELLOW, CYAN, BLUE, GREEN]
FACE = np.repeat(np.arange(6, dtype=np.uint8), 4)[None].repeat(10, axis=0)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty tree under which everything is registered."""
    register_public_datasets(tmp_path)
    yield tmp_path
    register_public_datasets()


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photograph(path: Path, labels: np.ndarray) -> None:
    save(path, np.zeros((*labels.shape, 3), np.uint8))


def painted(labels: np.ndarray, colours: list[tuple[int, int, int]], seed: int) -> np.ndarray:
    """The label image, every value off by up to 25."""
    noise = np.random.default_rng(seed).integers(-25, 26, (*labels.shape, 3))
    return np.clip(np.array(colours)[labels] + noise, 0, 255).astype(np.uint8)


def write_fasseg(root: Path) -> None:
    place = root / "FASSEG-repository"
    for version, words, inner in (
        ("V1", "Labels", "1"),
        ("V2", "Labels", "1"),
        ("V3", "labels", "+15/personne01147+0+15"),
    ):
        for number, split in enumerate(("Train", "Test")):
            photograph(place / version / f"{split}_RGB" / f"{inner}.bmp", FACE)
            image = painted(FACE, FACE_COLOURS, number)
            save(place / version / f"{split}_{words}" / f"{inner}.bmp", image)


def test_fasseg(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fasseg(root)
    # Blended borders: between background and skin, between background and hair, and a dark one.
    path = root / "FASSEG-repository/V2/Test_Labels/1.bmp"
    image = np.array(Image.open(path))
    image[0, 0], image[0, 4], image[0, 8] = (255, 127, 0), (191, 0, 0), (0, 0, 0)
    save(path, image)
    # As four of the real ones: a label image of another size than its photograph.
    odd = root / "FASSEG-repository/V3/Test_labels/+15/personne02147+0+15.bmp"
    save(odd, painted(FACE[:, :-1], FACE_COLOURS, 5))
    photograph(root / "FASSEG-repository/V3/Test_RGB/+15/personne02147+0+15.bmp", FACE)
    module = program("fasseg")
    assert run(module, root) == 0
    printed = capsys.readouterr().out
    assert f"left out {odd}: its size is not that of" in printed
    assert "missing" not in printed
    for name in ("frontal01_train", "frontal01_test", "frontal02_train", "multipose01_test"):
        (record,) = DatasetCatalog.get(f"fasseg_{name}")
        assert Path(record["file_name"]).is_file()
        assert (read_label_map(record["part_seg_file_name"]) == FACE).all()
    (record,) = DatasetCatalog.get("fasseg_frontal02_test")
    expected = FACE.copy()
    expected[0, [0, 4, 8]] = 255
    assert (read_label_map(record["part_seg_file_name"]) == expected).all()
    before = times(root)
    assert run(module, root) == 0 and times(root) == before
    assert run(module, root, "--check") == 0


def test_a_photograph_instead_of_a_label_image_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fasseg(root)
    path = root / "FASSEG-repository/V1/Train_Labels/1.bmp"
    save(path, np.full((10, 24, 3), 200, np.uint8))
    assert run(program("fasseg"), root) == 1
    assert f"{path}: 100% of the pixels have a colour that stands for no" in capsys.readouterr().err
    save(path, np.zeros((10, 24), np.uint8))
    assert run(program("fasseg"), root) == 1
    assert f"{path}: a label image must be RGB" in capsys.readouterr().err


def write_lfw(root: Path) -> np.ndarray:
    labels = np.repeat(np.arange(3, dtype=np.uint8), 4)[None].repeat(10, axis=0)
    place = root / "lfw_parts"
    for number, split in enumerate(("train", "validation", "test"), 1):
        stem = f"Ann_O'Neil_{number:04}"
        (place / f"parts_{split}.txt").parent.mkdir(exist_ok=True)
        (place / f"parts_{split}.txt").write_text(f"Ann_O'Neil {number}\n")
        photograph(place / f"lfw_funneled/Ann_O'Neil/{stem}.jpg", labels)
        photograph(place / f"lfw_funneled/Ann_O'Neil/Ann_O'Neil_{number + 10:04}.jpg", labels)
        image = np.array([BLUE, RED, GREEN], np.uint8)[labels]
        save(place / f"parts_lfw_funneled_gt_images/{stem}.ppm", image)
    return labels


def test_lfw_parts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_lfw(root)
    module = program("lfw_parts")
    assert run(module, root) == 0
    for number, split in enumerate(("train", "val", "test"), 1):
        (record,) = DatasetCatalog.get(f"lfw_parts_{split}")
        assert record["file_name"].endswith(f"lfw_funneled/Ann_O'Neil/Ann_O'Neil_{number:04}.jpg")
        assert (read_label_map(record["part_seg_file_name"]) == labels).all()
    (root / "lfw_parts/parts_validation.txt").write_text("Ann_O'Neil 2\n../etc 1\n")
    capsys.readouterr()
    assert run(module, root) == 1
    assert "parts_validation.txt: line 2 is not a name and a number: ../etc 1" in (
        capsys.readouterr().err
    )


def test_ccp(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = root / "clothing-co-parsing"
    labels = np.repeat(np.arange(59, dtype=np.uint8), 2)[None].repeat(6, axis=0)
    for number, kind in ((4, np.uint8), (5, np.float64)):
        photograph(place / f"photos/{number:04}.jpg", labels)
        path = place / f"annotations/pixel-level/{number:04}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"groundtruth": labels.astype(kind)}, do_compression=True)
    # Photographs with image-level tags alone.
    photograph(place / "photos/1005.jpg", labels)
    module = program("ccp")
    assert run(module, root) == 0
    for split, number in (("train", 4), ("val", 5)):
        (record,) = DatasetCatalog.get(f"ccp_{split}")
        assert record["file_name"] == str(place / f"photos/{number:04}.jpg")
        assert (read_label_map(record["part_seg_file_name"]) == labels).all()
    names = MetadataCatalog.get("ccp_val").stuff_classes
    assert [names[i] for i in (0, 19, 41, 58)] == [
        "background",
        "person hair",
        "person skin",
        "person wedges",
    ]
    scipy.io.savemat(path, {"groundtruth": labels + 0.5})
    capsys.readouterr()
    assert run(module, root) == 1
    assert "0005.mat: the groundtruth of this MATLAB file has fractions" in capsys.readouterr().err
    scipy.io.savemat(path, {"tags": labels})
    assert run(module, root) == 1
    assert "0005.mat: this MATLAB file has no groundtruth" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ccp", "fasseg", "lfw_parts"])
def test_missing_files_list_their_sources(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program(name), root) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and printed.err.count(str(root)) >= 1
    assert "The files are from:" in printed.out and "http" in printed.out
    assert run(program(name), root, "--check") == 1
    printed = capsys.readouterr()
    assert "PROBLEM" in printed.out and "missing  " in printed.out
    assert not list(root.iterdir())


def test_parts_of_faces_are_evaluated(root: Path) -> None:
    write_fasseg(root)
    assert run(program("fasseg"), root) == 0
    name = "fasseg_frontal01_test"
    metadata = MetadataCatalog.get(name)
    report = check_records(DatasetCatalog.get(name), metadata, min_part_area=1)
    assert report.objects == dict.fromkeys(
        ["person hair", "person skin", "person nose", "person eyes", "person mouth"], 1
    )
    evaluator = build_evaluator(model_zoo.get_config("hipie_nano_picturebook"), name)
    evaluator.reset()
    (record,) = DatasetCatalog.get(name)
    # The background is not named: no score where it is; the mouth is taken for eyes.
    named = np.where(FACE == 5, 4, FACE)
    scores = torch.from_numpy(np.eye(6)[named][..., 1:]).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": scores}])
    results = evaluator.evaluate()["parts"]
    assert results["IoU-background"] == results["IoU-person nose"] == 100
    assert results["IoU-person mouth"] == 0
    assert results["mIoU"] == pytest.approx(100 * (4 + 0.5) / 6)
    assert results["mIoU_parts"] == pytest.approx(100 * (3 + 0.5) / 5)
