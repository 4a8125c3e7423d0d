"""Runs on a Ray cluster of this machine: results, actors that end, resuming, S3 on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from hipie.batch_inference import RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.distributed import RayOptions, Storage, connected, find_sources, segment_on_ray
from hipie.errors import InputError, UsageError
from hipie.segmentation import Segment, Segmentation
from tests.batch_inference.stub import IDENTITY, SETTINGS, write_image
from tests.distributed.stub import CLASSES, CONTENT, Build
from tests.distributed.test_shards import rows_of, without_ids

# Imported by `connected`, which first says where Ray listens.
if find_spec("ray") is None:
    pytest.skip('needs Ray Data: make ray, or pip install "hipie[ray]"', allow_module_level=True)

# Processes of a busy machine take long to start.
pytestmark = pytest.mark.timeout(1800)
SMALL = RayOptions(workers=2, images_per_shard=4)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine, whose processes know the credentials of the S3 stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # By default they wait for every other process of a busy machine.
        patch.setenv("RAY_worker_niceness", "0")
        with connected():
            yield


def segment_all(output, *arguments, build=None, options=SMALL, **more):
    sources = find_sources(arguments, exclude=str(output))
    summary = segment_on_ray(sources, str(output), build or Build(), options=options, **more)
    return summary.done, summary.skipped, summary.failed


def test_results_are_those_of_the_local_engine(cluster, in_tmp):
    for number in range(11):
        write_image(in_tmp / f"p/{number:02d}.png", number, (20 + number, 30))
    (in_tmp / "p/bad.png").write_text("no image")
    assert segment_all(in_tmp / "out", "p", formats=("coco",)) == (11, 0, 1)
    with RunFolder(in_tmp / "one", IDENTITY, settings=SETTINGS) as folder:
        folder.add_class_names(CLASSES)
        run(find_inputs(["p"]), folder, build_formats(["parquet"]), Build().segment)
    local = pq.read_table(in_tmp / "one/segments.parquet").to_pylist()
    assert list(map(without_ids, rows_of(in_tmp / "out"))) == list(map(without_ids, local))
    assert len(list((in_tmp / "out/coco").iterdir())) == 3
    assert segment_all(in_tmp / "out", "p", formats=("coco",)) == (0, 11, 1)
    with pytest.raises(InputError, match=r"p/bad\.png"):
        segment_all(in_tmp / "out", "p", strict=True)


def test_an_actor_that_is_killed_loses_and_repeats_no_image(cluster, in_tmp):
    for number in range(40):
        write_image(in_tmp / f"p/{number:02d}.png", number)
    build = Build(in_tmp, seconds=0.2)
    killed: list[str] = []

    def kill_an_actor() -> None:
        while not killed and thread_end > time.monotonic():
            actors = [path.name.split("_") for path in in_tmp.glob("actor_*")]
            if actors and len(build.calls()) >= 10:
                _, actor_id, process_id = actors[0]
                os.kill(int(process_id), signal.SIGKILL)
                killed.append(actor_id)
            time.sleep(0.02)

    thread_end = time.monotonic() + 500
    thread = threading.Thread(target=kill_an_actor)
    thread.start()
    counts = segment_all(in_tmp / "out", "p", build=build)
    thread_end = 0
    thread.join()
    assert len(killed) == 1
    assert counts == (40, 0, 0)
    names = [row["file_name"] for row in rows_of(in_tmp / "out")]
    assert names == [f"p/{number:02d}.png" for number in range(40)]
    # Only images of the shard in progress have been computed twice.
    calls = build.calls()
    repeated = {value for value in calls if calls.count(value) > 1}
    assert len({value // SMALL.images_per_shard for value in repeated}) <= 1
    assert {*calls} == {*range(40)}


def test_an_image_that_ends_actors_is_a_failure(cluster, in_tmp):
    for number in range(8):
        write_image(in_tmp / f"p/{number}.png", 101 if number == 5 else number)
    assert segment_all(in_tmp / "out", "p", build=Build(in_tmp)) == (7, 0, 1)
    assert len(rows_of(in_tmp / "out")) == 7


def test_errors_of_every_image_end_the_run(cluster, in_tmp):
    write_image(in_tmp / "p/1.png", 103)
    with pytest.raises(InputError, match="these are no class names"):
        segment_all(in_tmp / "out", "p")
    with pytest.raises(UsageError, match="no such model"):
        segment_all(in_tmp / "out", "p", build=fail_to_build)
    with pytest.raises(UsageError, match="this machine has no 1000 CPUs"):
        segment_all(in_tmp / "out", "p", options=RayOptions(cpus=1000))


def fail_to_build():
    raise UsageError("there is no such model")


def test_images_and_results_are_on_s3(cluster, in_tmp):
    pytest.importorskip("moto", reason='needs pip install "moto[server]"')
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="photos")
        for number in range(6):
            file = write_image(in_tmp / f"{number}.png", number, (20, 30 + number))
            client.upload_file(str(file), "photos", f"in/my photo {number}.png")
        client.put_object(Bucket="photos", Key="in/bad.png", Body=b"no image")
        options = f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        where = f"s3://photos/in{options}", f"s3://photos/out{options}"
        assert segment_all(where[1], where[0]) == (6, 0, 1)
        storage = Storage(where[1])
        files = storage.files(storage.join("parquet"))
        tables = [
            pq.read_table(one.path, filesystem=storage.filesystem).to_pylist() for one in files
        ]
        rows = [row for table in tables for row in table]
        assert [(row["file_name"], row["width"]) for row in rows] == [
            (f"s3://photos/in/my photo {number}.png", 30 + number) for number in range(6)
        ]
        assert b"in/bad.png" in storage.read(storage.join("errors.jsonl"))
        client.put_object(Bucket="photos", Key="in/bad.png", Body=file.read_bytes())
        assert segment_all(where[1], where[0]) == (1, 6, 0)
        # A missing address is an error of the run, as a missing file is.
        (missing,) = find_sources([f"s3://photos/none.png{options}"])
        assert missing.version == (0, 0)
    finally:
        server.stop()


def build_convolution():
    """Build a model of one convolution with 3x3 weights: positive pixels are a thing."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 1, 3, padding=1)

    def call(pixels: np.ndarray) -> Segmentation:
        with torch.no_grad():
            scores = layer(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        mask = (scores[0, 0] > scores.mean()).numpy()
        return Segmentation(pixels, (Segment("dog", "thing", mask, 0.5),), ("dog",))

    return call, CONTENT


@pytest.mark.slow
def test_twenty_thousand_images_end_in_bounded_memory(cluster, in_tmp, capsys):
    count = 20_000
    generator = np.random.default_rng(0)
    (in_tmp / "p").mkdir()
    from PIL import Image

    for number in range(count):
        pixels = generator.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(in_tmp / f"p/{number:05d}.png", compress_level=1)
    samples: list[tuple[int, int]] = []
    done = threading.Event()
    thread = threading.Thread(target=_watch_memory, args=(samples, in_tmp / "out/parquet", done))
    thread.start()
    start = time.monotonic()
    try:
        counts = segment_all(
            in_tmp / "out", "p", build=build_convolution, options=RayOptions(workers=2)
        )
    finally:
        done.set()
        thread.join()
    assert counts == (count, 0, 0)
    assert len({row["file_name"] for row in rows_of(in_tmp / "out")}) == count
    shards = samples[-1][1]
    first, peak = samples[0][0] / 2**20, max(samples)[0] / 2**20
    # Quarters of the images: on a busy machine the first ones take most of the time.
    last = max(memory for memory, written in samples if written > 0.75 * shards) / 2**20
    middle = (
        max(memory for memory, written in samples if 0.25 * shards < written <= shards / 2) / 2**20
    )
    with capsys.disabled():
        print(
            f"\n{count} images in {time.monotonic() - start:.0f} s; unshared memory of all "
            f"processes: {first:.0f} MiB before, {peak:.0f} MiB at most, {middle:.0f} MiB in the "
            f"second quarter, {last:.0f} MiB in the last"
        )
    assert peak - first < 2500
    assert last - middle < 300


def _watch_memory(samples: list[tuple[int, int]], folder: Path, done: threading.Event) -> None:
    """Add the unshared memory of this process and all that it has started, and written shards."""
    while not done.wait(0.25):
        total = 0
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                info = process.memory_info()
                total += info.rss - info.shared
            except psutil.Error:
                continue
        samples.append((total, len(list(folder.glob("part-*"))) if folder.is_dir() else 0))


@pytest.mark.slow
def test_the_command_gives_the_results_of_the_local_engine(in_tmp):
    """The packaged model segments pages of the picture book on both engines, with one thread."""
    from PIL import Image

    from hipie.data.picturebook import PictureBook

    book = PictureBook(3, "val")
    (in_tmp / "p").mkdir()
    for number in range(3):
        Image.fromarray(book.page(number).image).save(in_tmp / f"p/{number}.png")
    command = [sys.executable, "-m", "hipie", "segment", "p", "--things", "house; car; person"]
    command += ["--stuff", "sky; grass", "--parts", "house: door", "--threads", "1", "--device"]
    command += ["cpu", "--config-file", "nano/hipie_nano_picturebook.yaml", "--format", "parquet"]
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd())}
    for more in (["--output", "one"], ["--output", "ray", "--engine", "ray"]):
        done = subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == f"{more[1]}: 3 done, 0 skipped, 0 failed"
    local = pq.read_table("one/segments.parquet").to_pylist()
    rows = rows_of(Path("ray"))
    assert any(row["segments"] for row in rows)
    classes = ("category_id",)  # Parts have theirs in the order of the command on a cluster.
    for row, expected in zip(rows, local, strict=True):
        for one in (*row["segments"], *expected["segments"]):
            for key in classes:
                one.pop(key)
        assert without_ids(row) == without_ids(expected)
