"""Preparation of RefCOCO and its relatives, gRefCOCO, Ref-ZOM, GRD and co-saliency data sets.

From the files as distributed to registered data sets, with numbers that were counted by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.datasets.builtin_referring import register_referring_datasets
from hipie.data.datasets.grd import GroupSamples
from hipie.data.datasets.refcoco import in_split
from hipie.data.io.paths import datasets_root
from hipie.data.preparation.checks import count_expressions, run_checks
from hipie.evaluation.metrics.expression_iou import target_rles
from tests import referring_trees as trees
from tests.exit_status import exit_status
from tests.programs import program, tree_of


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty tree under which everything is registered."""
    register_referring_datasets(tmp_path / "tree")
    yield tmp_path / "tree"
    register_referring_datasets(datasets_root())


def run(module: ModuleType, root: Path, *words: str) -> int:
    return exit_status(module.main, ["--root", str(root), *words])


def masks(record: dict) -> list[np.ndarray]:
    return [mask_util.decode(runs).astype(bool) for runs in target_rles(record)]


def small_counts(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISHED", {})


def test_refcoco(tmp_path: Path, root: Path, monkeypatch, capsys) -> None:
    trees.write_refcoco(tmp_path / "got", root)
    module = program("refcoco")
    small_counts(module, monkeypatch)
    assert run(module, root, "--source", str(tmp_path / "got")) == 0
    for name, splits in (("refcoco_unc", 4), ("refcoco+_unc", 4), ("refcocog_umd", 3)):
        for k, split in enumerate(
            ("train", "val", "testA", "testB") if splits == 4 else ("train", "val", "test")
        ):
            (record,) = DatasetCatalog.get(f"{name}_{split}")
            assert record["file_name"] == str(root / "coco/train2014" / trees.coco_name(k + 1))
            assert os.path.exists(record["file_name"])
            words = [expression["expression"] for expression in record["expressions"]]
            assert words[0] == f"The Thing no. {1 + 2 * k}, said 0" and len(words) == k + 1 + 3
            found = masks(record)
            np.testing.assert_array_equal(found[0], trees.mask_of(10 * (k + 1)))
            np.testing.assert_array_equal(found[-1], trees.mask_of(10 * (k + 1) + 1))
    first, second = DatasetCatalog.get("refcoco-unc-val")
    assert [s["expression"] for s in first["expressions"]] == [
        "the thing no 3 said 0",
        "the thing no 3 said 1",
    ]
    np.testing.assert_array_equal(masks(second)[0], trees.mask_of(21))
    assert first["image_id"] != second["image_id"] and first["file_name"] == second["file_name"]
    assert len(DatasetCatalog.get("refcocog-google-val")) == 2
    assert len(DatasetCatalog.get("refcoco-mixed")) == 6
    assert MetadataCatalog.get("refcoco-unc-val").resized_to == 480
    area = json.loads((root / "annotations/refcoco-unc/instances_val.json").read_text())
    assert [a["area"] for a in area["annotations"]] == [
        trees.mask_of(20).sum(),
        trees.mask_of(21).sum(),
    ]
    capsys.readouterr()
    assert run(module, root, "--check") == 0
    assert "ok       refcoco unc val: 1 images, 2 refs, 5 expressions, 0" in capsys.readouterr().out


def test_refcoco_alone_is_prepared(tmp_path: Path, root: Path, monkeypatch, capsys) -> None:
    trees.write_refcoco(tmp_path / "got", root)
    got = tmp_path / "one"
    got.mkdir()
    for file in (tmp_path / "got").iterdir():
        if file.stem == "refcoco":
            (shutil.copytree if file.is_dir() else shutil.copy)(file, got / file.name)
    module = program("refcoco")
    small_counts(module, monkeypatch)
    assert run(module, root, "--source", str(got)) == 0
    written = {path.parent.name for path in (root / "annotations").rglob("*.json")}
    assert written == {"refcoco-unc"}
    capsys.readouterr()
    assert run(module, root, "--check") == 0
    printed = capsys.readouterr().out
    assert "missing  refcoco+/instances.json: from RefCOCO+: http" in printed
    assert "missing  refcoco/" not in printed


def test_expressions_are_prepared_before_the_images_are_downloaded(
    tmp_path: Path, root: Path, monkeypatch, capsys
) -> None:
    """Their absence is said; only `--check` fails, and so does a folder with some images."""
    trees.write_refcoco(tmp_path / "got", root)
    (root / "coco/train2014").rename(tmp_path / "downloaded_later")
    module = program("refcoco")
    small_counts(module, monkeypatch)
    assert run(module, root, "--source", str(tmp_path / "got")) == 0
    printed = capsys.readouterr().out
    assert "missing  refcoco unc train: none of the 1 images is there" in printed
    assert "missing  coco/train2014: from images: http" in printed
    assert (root / "annotations/refcoco-unc/instances_val.json").is_file()
    assert run(module, root, "--check") == 1
    assert "PROBLEM  refcoco unc train: none of the 1 images" in capsys.readouterr().out
    existing = next((tmp_path / "downloaded_later").iterdir())
    names = [str(existing), str(existing.with_name("absent.jpg"))]
    records = [{"file_name": n, "image_id": n, "expressions": []} for n in names]
    some = [("some", lambda: count_expressions(records))]
    assert run_checks(some, images_may_be_missing=True) == 1


def test_splits_that_refs_have() -> None:
    assert {"train", "val", "testA", "testB"} == {
        split
        for name in ("train", "val", "testAB")
        for split in ("train", "val", "testA", "testB")
        if in_split(name, split)
    }


PROGRAMS = sorted(
    path.stem.removeprefix("prepare_")
    for path in (Path(__file__).parents[2] / "datasets").glob("prepare_*.py")
    if path.stem not in ("prepare_photos", "prepare_picturebook")
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_check_lists_everything_that_is_missing(tmp_path: Path, name: str, capsys) -> None:
    module = program(name)
    assert all(source.files for source in module.SOURCES)
    for count in (0, 1):
        for file in [source.files[0] for source in module.SOURCES][:count]:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("")
        exit_status(module.main, ["--root", str(tmp_path), "--check"])
        printed = capsys.readouterr().out
        for source in module.SOURCES:
            for file in source.files:
                line = f"missing  {file}: from {source}"
                assert (line in printed) == (not (tmp_path / file).exists())


def test_refcoco_filter_leaves_tested_images_out(tmp_path: Path, root: Path, monkeypatch) -> None:
    trees.write_refcoco(tmp_path / "got", root)
    module = program("refcoco")
    small_counts(module, monkeypatch)
    run(module, root, "--source", str(tmp_path / "got"))
    place = root / "annotations"
    val = place / "refcocog-umd/instances_val.json"
    content = json.loads(val.read_text())
    content["images"][0]["file_name"] = trees.coco_name(1)
    val.write_text(json.dumps(content))
    run(module, root, "--source", str(tmp_path / "got"))
    assert (
        len(json.loads((place / "refcoco-mixed/instances_train.json").read_text())["images"]) == 6
    )
    left = json.loads((place / "refcoco-mixed/instances_train_filter.json").read_text())
    assert left["images"] == [] and left["annotations"] == []


def test_grefcoco(tmp_path: Path, root: Path) -> None:
    trees.write_grefcoco(tmp_path / "got", root)
    assert run(program("grefcoco"), root, "--source", str(tmp_path / "got")) == 0
    (record,) = DatasetCatalog.get("grefcoco_unc_testA")
    assert [len(s["targets"]) for s in record["expressions"]] == [2, 2, 1, 1, 0]
    found = masks(record)
    np.testing.assert_array_equal(found[0], trees.mask_of(30, 31))
    np.testing.assert_array_equal(found[2], trees.mask_of(30))
    assert not found[4].any()


def test_refzom(tmp_path: Path, root: Path) -> None:
    trees.write_refzom(tmp_path / "got", root)
    assert run(program("refzom"), root, "--source", str(tmp_path / "got")) == 0
    (train,) = DatasetCatalog.get("refzom_train")
    assert os.path.exists(train["file_name"]) and len(train["expressions"]) == 2
    first, second = DatasetCatalog.get("refzom_test")
    assert first["image_id"] == 1 and [s["targets"] for s in first["expressions"]] == [[0]]
    assert os.path.exists(second["file_name"]) and "val2014" in second["file_name"]
    assert [len(s["targets"]) for s in second["expressions"]] == [2, 2, 0]
    np.testing.assert_array_equal(masks(second)[0], trees.mask_of(20, 21))


@pytest.mark.parametrize("protocol", [2, 4])
def test_grd(tmp_path: Path, root: Path, protocol: int, monkeypatch) -> None:
    trees.write_grd(tmp_path / "got", protocol)
    module = program("grd")
    published = {"groups": 2, "expressions": 2, "with expressions of absence": 4}
    monkeypatch.setattr(module, "PUBLISHED", published)
    assert run(module, root, "--source", str(tmp_path / "got")) == 0
    records = DatasetCatalog.get("grd_intra")
    assert [r["image_id"] for r in records] == [1, 2, 3, 4]
    assert [r["group_id"] for r in records] == [1, 1, 2, 2] and records[2]["group_name"] == "hats 2"
    assert all(os.path.exists(record["file_name"]) for record in records)
    assert [s["expression"] for s in records[3]["expressions"]] == ["a thing with hat 2"]
    np.testing.assert_array_equal(masks(records[0])[0], trees.mask_of(10, 11))
    assert not masks(records[1])[0].any()
    full = DatasetCatalog.get("grd_intra_full")
    assert [len(s["targets"]) for r in full for s in r["expressions"]] == [2, 0, 0, 1] * 2
    samples = GroupSamples(full)
    assert [(one["group_id"], one["sent_id"]) for one in samples] == [
        (1, 1),
        (1, 2),
        (2, 3),
        (2, 4),
    ]
    assert [image["image_id"] for image in samples[1]["images"]] == [1, 2]
    assert samples[1]["images"][1]["expressions"][0]["targets"] == [0]


def test_grd_between_groups(tmp_path: Path, root: Path) -> None:
    trees.write_grd(tmp_path / "got")
    run(program("grd"), root, "--source", str(tmp_path / "got"))
    own = {
        (r["image_id"], s["sent_id"]): s for r in DatasetCatalog.get("grd_intra_full")
        for s in r["expressions"]
    }  # fmt: skip
    found = DatasetCatalog.get("grd_inter_full")
    assert [[s["sent_id"] for s in record["expressions"]] for record in found] == [[1, 2, 3, 4]] * 4
    for record in found:
        for expression in record["expressions"]:
            meant = own.get((record["image_id"], expression["sent_id"]), {"targets": []})
            assert expression["targets"] == meant["targets"]
    samples = GroupSamples(found)
    assert len(samples) == 2 * 4 and all(len(one["images"]) == 2 for one in samples)
    assert [one["sent_id"] for one in samples] == [1, 2, 3, 4] * 2
    expression_texts = {
        s["expression"] for r in DatasetCatalog.get("grd_inter") for s in r["expressions"]
    }
    assert len(expression_texts) == 2 and not any("without" in one for one in expression_texts)
    halves = [DatasetCatalog.get(f"grd_intra_{half}") for half in ("even", "odd")]
    assert [{r["group_id"] for r in half} for half in halves] == [{2}, {1}]


def test_grd_of_another_size_is_reported(tmp_path: Path, root: Path, capsys) -> None:
    trees.write_grd(tmp_path / "got")
    assert run(program("grd"), root, "--source", str(tmp_path / "got")) == 1
    assert (
        "PROBLEM  GRD, expressions of presence: 2 groups with 2 expressions"
        in capsys.readouterr().out
    )


def test_cosod(tmp_path: Path, root: Path, monkeypatch) -> None:
    trees.write_cosod(tmp_path / "got")
    module = program("cosod")
    monkeypatch.setattr(module, "DATASETS", dict.fromkeys(module.DATASETS, (2, 4)))
    assert run(module, root, "--source", str(tmp_path / "got")) == 0
    for name in ("coca", "cosod3k"):
        records = DatasetCatalog.get(name)
        assert [r["image_id"] for r in records][:2] == [
            "alarm_clock/alarm_clock_0.x",
            "alarm_clock/alarm_clock_1.x",
        ]
        assert [r["expressions"][0]["expression"] for r in records] == ["alarm clock"] * 2 + [
            "dog"
        ] * 2
        assert all(os.path.exists(r["saliency_file_name"]) for r in records)
        assert (records[0]["height"], records[0]["width"]) == (trees.HEIGHT, trees.WIDTH)
    with pytest.raises(ValueError, match='there is no folder "image"'):
        DatasetCatalog.get("cosal2015")


def test_every_set_is_registered_lazily(root: Path) -> None:
    names = register_referring_datasets(root)
    assert len(names) == len(set(names)) == 44
    assert {MetadataCatalog.get(name).evaluator_type for name in names} == {
        "refer",
        "grefer",
        "refzom",
        "group",
        "cosaliency",
    }
    for name in names:
        with pytest.raises((FileNotFoundError, ValueError), match=str(root)):
            DatasetCatalog.get(name)


WRITERS = {
    "refcoco": trees.write_refcoco,
    "grefcoco": trees.write_grefcoco,
    "refzom": trees.write_refzom,
    "grd": lambda downloads, root: trees.write_grd(downloads),
    "cosod": lambda downloads, root: trees.write_cosod(downloads),
}


@pytest.mark.parametrize("name", WRITERS)
def test_repeated_and_interrupted_runs(
    tmp_path: Path, root: Path, name: str, monkeypatch, capsys
) -> None:
    """A second run changes nothing; one that was stopped anywhere is completed by the next."""
    WRITERS[name](tmp_path / "got", root)
    module = program(name)
    run(module, root, "--source", str(tmp_path / "got"))
    whole = tree_of(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    run(module, root, "--source", str(tmp_path / "got"))
    assert tree_of(root) == whole
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    replace, done = os.replace, []

    def stop_at(number: int):
        def stopping(source, target):
            done.append(target)
            if len(done) == number:
                raise KeyboardInterrupt
            replace(source, target)

        return stopping

    for number in (1, 2, 4):
        other = tmp_path / f"stopped{number}"
        WRITERS[name](tmp_path / "got", other)
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop_at(number))
            status = run(module, other, "--source", str(tmp_path / "got"))
            assert status == (130 if len(done) >= number else status)
        assert not [path for path in other.rglob(".*") if path.is_file()]
        run(module, other, "--source", str(tmp_path / "got"))
        assert tree_of(other) == whole
    assert "interrupted; run the same command to continue" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITERS)
def test_faults_are_reported(tmp_path: Path, root: Path, name: str, capsys) -> None:
    module = program(name)
    assert run(module, root) == 2
    assert "http" in capsys.readouterr().out
    assert run(module, root, "--source", str(tmp_path / "nowhere")) == 1
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(module, root, "--source", str(tmp_path / "empty")) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
    (tmp_path / "empty/some.zip").write_bytes(b"PK no zip")
    assert run(module, root, "--source", str(tmp_path / "empty")) == 1
    assert "some.zip: this zip archive is damaged" in capsys.readouterr().err
    assert run(module, root, "--check") == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_a_missing_image_is_a_problem(tmp_path: Path, root: Path, capsys) -> None:
    trees.write_grefcoco(tmp_path / "got", root)
    arguments = (program("grefcoco"), root, "--source", str(tmp_path / "got"))
    (root / "coco/train2014" / trees.coco_name(2)).unlink()
    # The only image of a split: the images are a download of their own, which --check asks for.
    assert run(*arguments) == 0
    assert "missing  gRefCOCO val: none of the 1 images is there" in capsys.readouterr().out
    assert run(program("grefcoco"), root, "--check") == 1


def test_names_that_leave_their_folder_are_not_followed(tmp_path: Path, root: Path) -> None:
    trees.write_cosod(tmp_path / "got")
    with zipfile.ZipFile(tmp_path / "got/CoSal2015.zip", "w") as archive:
        archive.writestr("CoSal2015/image/../../../../evil/x.jpg", b"x")
        archive.writestr("/CoSal2015/image/dog/x.jpg", b"x")
    run(program("cosod"), root, "--source", str(tmp_path / "got"))
    assert not (root / "cosod/CoSal2015").exists() and not (tmp_path / "evil").exists()
