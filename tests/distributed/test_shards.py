"""Shards and the folder of results, computed in this process; the cluster is in another file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hipie.batch_inference import RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.data.conversion.annotations import ReadOptions, read_annotations
from hipie.distributed import OutputFolder, find_sources
from hipie.distributed.shard_worker import (
    ShardJob,
    ShardReport,
    ShardWorker,
    plan_from_json,
    plan_to_json,
)
from hipie.distributed.shards import read_shard, shard_file, shard_number
from hipie.errors import InputError, UsageError
from tests.batch_inference.stub import IDENTITY, SETTINGS, write_image
from tests.distributed.stub import CLASSES, CONTENT, Build
from tests.distributed.test_sources import write_rows


def compute(output, *arguments, build=None, formats=("parquet", "coco"), size=4, **options):
    """Do what a run does, with one worker in this process.

    Returns:
        The numbers of images that were done, had been done, and failed; and the reports.
    """
    build = build or Build()
    listing = {"recursive": options.pop("recursive", False)}
    sources = find_sources(arguments, exclude=str(output), **listing)
    content = build()[1]
    with OutputFolder(str(output), content["identity"], images_per_shard=size, **options) as folder:
        plans, done = folder.plan(sources, formats)
        job = ShardJob(build, content, str(output), os.getcwd(), 0)
        worker = ShardWorker(job)
        rows = [worker({"plan": plan_to_json(plan)}) for plan in plans]
        reports = [ShardReport.from_json(row["report"]) for row in rows]
        errors = [error for report in reports for error in report.errors]
        folder.write_errors([one.file for one in sources], errors)
    return (sum(report.done for report in reports), done, len(errors)), reports


def rows_of(output) -> list[dict]:
    files = sorted((output / "parquet").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def without_ids(row: dict) -> dict:
    """The row of an image without what depends on the other images of its file."""
    segments = [
        {key: value for key, value in one.items() if key not in ("id", "part_of")}
        for one in row["segments"]
    ]
    return {**row, "segments": segments}


@pytest.fixture
def images(in_tmp):
    for number in range(10):
        write_image(in_tmp / f"p/{number}.png", number, (20 + number, 30))
    return in_tmp


def test_rows_are_those_of_a_local_run(images):
    counts, _ = compute(images / "out", "p")
    assert counts == (10, 0, 0)
    with RunFolder(images / "one", IDENTITY, settings=SETTINGS) as folder:
        folder.add_class_names(CLASSES)
        run(find_inputs(["p"]), folder, build_formats(["parquet"]), Build().segment)
    local = pq.read_table(images / "one/segments.parquet").to_pylist()
    rows = rows_of(images / "out")
    assert [without_ids(row) for row in rows] == [without_ids(row) for row in local]
    assert len(local[0]["segments"]) == 3
    # Parts lead to their whole, and no two segments of all shards have one id.
    for row in rows:
        by_id = {one["id"]: one for one in row["segments"]}
        assert [by_id[one["part_of"]]["category"] for one in by_id.values() if one["part_of"]] == [
            "dog"
        ]
    assert len({one["id"] for row in rows for one in row["segments"]}) == 30


def test_coco_shards_are_read_by_pycocotools(images):
    compute(images / "out", "p")
    rows = {row["image_id"]: row for row in rows_of(images / "out")}
    seen = set()
    for file in sorted((images / "out/coco").iterdir()):
        coco = COCO(file)
        assert [c["name"] for c in coco.dataset["categories"]] == list(CLASSES)
        for image_id, image in coco.imgs.items():
            seen.add(image_id)
            row = rows[image_id]
            assert image["file_name"] == row["file_name"]
            entries = coco.loadAnns(coco.getAnnIds([image_id]))
            for entry, expected in zip(entries, row["segments"], strict=True):
                assert coco.annToMask(entry).sum() == expected["area"] == entry["area"]
                assert entry["segmentation"]["counts"] == expected["segmentation"]["counts"]
    assert seen == rows.keys() == set(range(1, 11))


def test_shards_are_read_as_a_training_set(images):
    compute(images / "out", "p")
    file = images / "out/parquet/part-000001.parquet"
    annotations = read_annotations(file, "parquet", ReadOptions())
    assert [one.file for one in annotations.images] == [f"p/{number}.png" for number in range(4, 8)]


def test_rows_of_parquet_files_are_segmented(in_tmp):
    path = write_rows(in_tmp / "d.parquet", rows=9)
    assert compute(in_tmp / "out", "d.parquet")[0] == (9, 0, 0)
    rows = rows_of(in_tmp / "out")
    assert [row["file_name"] for row in rows] == [f"{path}#{row}" for row in range(9)]
    assert {(row["height"], row["width"]) for row in rows} == {(4, 5)}


def test_runs_go_on_where_they_ended(images):
    build = Build(images)
    assert compute(images / "out", "p", build=build)[0] == (10, 0, 0)
    assert compute(images / "out", "p", build=build)[0] == (0, 10, 0)
    assert build.calls() == list(range(10))
    before = {file.name: file.read_bytes() for file in (images / "out/parquet").iterdir()}
    (images / "out/parquet/part-000001.parquet").unlink()
    assert compute(images / "out", "p", build=build)[0] == (4, 6, 0)
    assert build.calls()[10:] == [4, 5, 6, 7]
    after = {file.name: file.read_bytes() for file in (images / "out/parquet").iterdir()}
    assert after == before


def test_new_and_changed_images_are_computed(images):
    build = Build(images)
    compute(images / "out", "p", build=build)
    write_image(images / "p/05.png", 50)
    write_image(images / "p/3.png", 33, (40, 40))
    assert compute(images / "out", "p", build=build)[0] == (2, 9, 0)
    assert build.calls()[10:] == [33, 50]
    rows = rows_of(images / "out")
    names = [row["file_name"] for row in rows]
    assert sorted(names) == sorted({*names}) and len(names) == 11
    # Images keep their numbers; a new one comes last.
    assert names[-1] == "p/05.png" and [row["image_id"] for row in rows] == list(range(1, 12))
    assert rows[3]["height"] == 40
    # A shard of some of the images stays complete.
    assert compute(images / "out", "p/3.png", build=build)[0] == (0, 1, 0)


def test_another_format_is_made_without_the_model(images):
    build = Build(images)
    compute(images / "out", "p", build=build, formats=("parquet",))
    assert not (images / "out/coco").exists()
    compute(images / "out", "p", build=build, formats=("coco",))
    assert len(build.calls()) == 10 and len(list((images / "out/coco").iterdir())) == 3
    # Once there, it follows its shard.
    write_image(images / "p/3.png", 33, (40, 40))
    compute(images / "out", "p", build=build, formats=("parquet",))
    images_of = COCO(images / "out/coco/part-000000.json").imgs
    assert images_of[4]["height"] == 40


def test_broken_images_are_errors_that_are_tried_again(images):
    (images / "p/4.png").write_text("no image")
    (images / "p/6.png").unlink()
    write_image(images / "p/7.png", 102)
    inputs = [f"p/{number}.png" for number in range(10)]
    counts, _ = compute(images / "out", *inputs)
    assert counts == (7, 0, 3)
    lines = [json.loads(line) for line in (images / "out/errors.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["p/4.png", "p/6.png", "p/7.png"]
    assert "there is no such" in lines[1]["error"] and "memory" in lines[2]["error"]
    write_image(images / "p/4.png", 4)
    assert compute(images / "out", *inputs)[0] == (1, 7, 2)
    # Errors about other files stay.
    assert compute(images / "out", "p/7.png")[0] == (0, 0, 1)
    lines = [json.loads(line) for line in (images / "out/errors.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["p/6.png", "p/7.png"]
    for number in (6, 7):
        write_image(images / f"p/{number}.png", number)
    assert compute(images / "out", *inputs)[0] == (2, 8, 0)
    assert not (images / "out/errors.jsonl").exists()


def test_class_names_that_no_image_has_end_the_run(images):
    write_image(images / "p/1.png", 103)
    _, (first, *_) = compute(images / "out", "p")
    assert first.failure is not None and first.failure.kind == "request"
    with pytest.raises(InputError, match="these are no class names"):
        raise first.failure.to_error()
    assert not (images / "out/parquet/part-000000.parquet").exists()


def test_another_model_is_refused(images):
    compute(images / "out", "p")
    other = Build(identity={**IDENTITY, "config": {"A.B": 2}})
    with pytest.raises(UsageError, match=r"results of another A\.B: 1, and now it is 2"):
        compute(images / "out", "p", build=other)
    assert compute(images / "out", "p", build=other, overwrite=True)[0] == (10, 0, 0)
    job = ShardJob(Build(), {**CONTENT, "identity": {}}, str(images / "out"), ".", 0)
    report = ShardWorker(job).compute(plan_from_json('{"number": 0, "images": [], "formats": []}'))
    assert report.failure is not None and "models with different weights" in report.failure.message


def test_a_folder_that_a_machine_does_not_have_is_named(images):
    job = ShardJob(Build(), CONTENT, str(images / "elsewhere"), ".", 0)
    report = ShardWorker(job).compute(plan_from_json('{"number": 0, "images": [], "formats": []}'))
    assert report.failure is not None and "does not have this folder" in report.failure.message


def test_a_second_run_is_refused(images):
    with (
        OutputFolder(str(images / "out"), IDENTITY),
        pytest.raises(UsageError, match="another process writes results"),
    ):
        OutputFolder(str(images / "out"), IDENTITY)


def test_damaged_files_are_named(images):
    compute(images / "out", "p")
    (images / "out/parquet/part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-000001\.parquet: this shard is damaged"):
        compute(images / "out", "p")
    for name in ("inputs.parquet", "settings.json"):
        (images / f"out/.hipie/{name}").write_text("{}")
        with pytest.raises(InputError, match=f"{name}: this is not a file of hipie"):
            compute(images / "out", "p")


def test_an_image_that_ends_processes_is_a_failure(images):
    """A process that segments one shard is started anew until it ends with success."""
    write_image(images / "p/1.png", 101)
    sources = find_sources([f"p/{number}.png" for number in range(4)])
    with OutputFolder(str(images / "out"), IDENTITY, images_per_shard=4) as folder:
        (plan,), _ = folder.plan(sources)
        program = (
            "import sys\n"
            "from hipie.distributed.shard_worker import *\n"
            "from tests.distributed.stub import CONTENT, Build\n"
            "job = ShardJob(Build(sys.argv[1]), CONTENT, sys.argv[2], '.', 0)\n"
            "print(ShardWorker(job)({'plan': sys.argv[3]})['report'])\n"
        )
        arguments = [str(images), str(images / "out"), plan_to_json(plan)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        statuses = []
        while not statuses or statuses[-1] < 0:
            assert len(statuses) < 5
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                capture_output=True,
                text=True,
                env=environment,
                check=False,
            )
            statuses.append(done.returncode)
    assert statuses == [-9, -9, 0], done.stderr
    report = ShardReport.from_json(done.stdout.splitlines()[-1])
    assert report.done == 3 and [error["file"] for error in report.errors] == ["p/1.png"]
    names = [row["file_name"] for row in rows_of(images / "out")]
    assert names == ["p/0.png", "p/2.png", "p/3.png"]
    assert list((images / "out/.hipie/attempts").iterdir()) == []


def test_files_of_shards_have_their_number():
    assert shard_file("coco", 12) == "coco/part-000012.json"
    assert shard_number("part-1234567.parquet") == 1234567
    assert [shard_number(name) for name in ("part-1.parquet", "x", "part-000001.parquet.tmp")] == [
        None
    ] * 3


def test_masks_of_rows_are_those_of_the_model(images):
    compute(images / "out", "p/0.png")
    folder = OutputFolder(str(images / "out"), IDENTITY)
    (row,) = read_shard(folder.storage, 0).rows.values()
    folder.close()
    masks = [
        coco_mask.decode(one["segmentation"] | {"counts": one["segmentation"]["counts"].encode()})
        for one in row["segments"]
    ]
    assert masks[0][0].all() and not masks[0][10:].any() and masks[2][10:].all()
