"""Inputs of a cluster: local images, addresses, rows of Parquet files, and lists of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hipie.distributed import Storage, find_sources
from hipie.distributed.sources import read_image_column
from hipie.distributed.storage import is_address, reason_of
from hipie.errors import InputError, MachineError, MissingFileError, UsageError
from tests.batch_inference.stub import write_image


def encode(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def write_rows(path: Path, column: str = "image", rows: int = 7) -> Path:
    """Write rows as the package `datasets` does, in groups of three."""
    images = [{"bytes": encode(row), "path": f"{row}.png"} for row in range(rows)]
    table = pa.table({"label": list(range(rows)), column: images})
    pq.write_table(table, path, row_group_size=3)
    return path


def test_local_images_are_those_of_find_inputs(in_tmp):
    for name in ("p/b.png", "p/a.png", "p/deep/c.png", "p/.hidden.png"):
        write_image(in_tmp / name)
    (in_tmp / "list.txt").write_text("p/deep\np/a.png\nmissing.png\n")
    sources = find_sources(["p", "@list.txt"])
    assert [one.file for one in sources] == ["p/a.png", "p/b.png", "p/deep/c.png", "missing.png"]
    assert sources[0].source == str(in_tmp / "p/a.png") and sources[0].root == ""
    status = (in_tmp / "p/a.png").stat()
    assert sources[0].version == (status.st_size, status.st_mtime_ns)
    assert sources[3].version == (0, 0)
    assert len(find_sources(["p"], recursive=True)) == 3


def test_addresses_list_folders_and_files(in_tmp):
    for name in ("p/a.png", "p/deep/c.JPG", "p/notes.txt", "p/.x/d.png", "p/out/e.png"):
        write_image(in_tmp / "t.png").rename(_folder(in_tmp / name))
    root = f"file://{in_tmp}/p"
    assert [one.path for one in find_sources([root])] == [f"{in_tmp}/p/a.png"]
    exclude = f"{in_tmp}/p/out"
    found = find_sources([root], recursive=True, exclude=exclude)
    assert [Path(one.path).name for one in found] == ["a.png", "c.JPG"]
    assert found[0].root == root and found[0].version[0] == (in_tmp / "p/a.png").stat().st_size
    (single,) = find_sources([f"{root}/notes.txt"])
    assert single.path.endswith("notes.txt")
    with pytest.raises(UsageError, match="into the folder that is read"):
        find_sources([f"file://{exclude}"], exclude=exclude)


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_rows_of_parquet_files_are_images(in_tmp, prefix):
    path = write_rows(in_tmp / "d.parquet")
    sources = find_sources([f"{prefix}{path}"])
    assert [one.row for one in sources] == list(range(7))
    assert sources[4].source == sources[4].file == f"{path}#4"
    images = read_image_column(Storage(f"{prefix}{path}"), sources[0].path, [1, 2, 6])
    assert images == [encode(1), encode(2), encode(6)]
    assert find_sources([str(in_tmp / "*.parquet")])[0].source == f"{path}#0"


def test_names_of_rows_are_those_of_their_column(in_tmp):
    table = {"bytes": [encode(1), None], "file_name": ["x/1.png", None]}
    pq.write_table(pa.table(table), in_tmp / "d.parquet")
    assert [one.file for one in find_sources(["d.parquet"])] == [
        "x/1.png",
        f"{in_tmp}/d.parquet#1",
    ]
    assert read_image_column(Storage("d.parquet"), "d.parquet", [0, 1]) == [encode(1), None]


def test_ids_of_a_coco_file_are_kept(in_tmp):
    write_image(in_tmp / "a.png")
    (in_tmp / "c.json").write_text(json.dumps({"images": [{"id": 7, "file_name": "a.png"}]}))
    assert [one.image_id for one in find_sources(["c.json"])] == [7]


def test_what_cannot_be_read_is_named(in_tmp):
    write_image(in_tmp / "p/a.png")
    (in_tmp / "v.mp4").touch()
    (in_tmp / "bad.parquet").write_text("Dear reader")
    pq.write_table(pa.table({"image": ["text"]}), in_tmp / "text.parquet")
    (in_tmp / "empty").mkdir()
    for argument, error, message in (
        ("v.mp4", UsageError, r"v\.mp4: a video is read frame by frame"),
        (f"file://{in_tmp}/v.mp4", UsageError, r"v\.mp4: a video is read frame by frame"),
        (f"file://{in_tmp}/empty", UsageError, "there is no image in file://"),
        ("empty", UsageError, "no image and no video in empty"),
        ("bad.parquet", InputError, r"bad\.parquet: this is not a Parquet file"),
        ("text.parquet", InputError, r"text\.parquet: no column has images"),
        ("no.parquet", InputError, r"no\.parquet: there is no such file"),
        ("gopher://host/p", InputError, "gopher://host/p: this address cannot be used"),
        (f"@file://{in_tmp}/no.txt", MissingFileError, r"no\.txt: there is no such list"),
    ):
        with pytest.raises(error, match=message):
            find_sources([argument])
    with pytest.raises(InputError, match="the file has 1 rows, and row 5 is read"):
        pq.write_table(pa.table({"image": [b"x"]}), in_tmp / "one.parquet")
        read_image_column(Storage("one.parquet"), str(in_tmp / "one.parquet"), [5])


def test_storage_writes_all_or_nothing(in_tmp):
    storage = Storage(f"file://{in_tmp}/new/folder")
    path = storage.join("deep/a.txt")
    assert storage.read_if_exists(path) is None and storage.files(storage.path) == []
    storage.write(path, b"one")
    storage.write(path, b"two")
    assert storage.read(path) == b"two"
    assert [info.base_name for info in storage.files(storage.path, recursive=True)] == ["a.txt"]
    for _ in range(2):
        storage.delete(storage.join("deep"))
    assert storage.files(storage.path, recursive=True) == []
    (in_tmp / "file").touch()
    with pytest.raises((InputError, MachineError), match="it cannot be written"):
        Storage(f"{in_tmp}/file").write(f"{in_tmp}/file/a", b"")


def test_addresses_keep_their_host_and_lose_their_options():
    assert is_address("s3://bucket/a") and not is_address("a/b.png") and not is_address("C:/a")
    storage = Storage("s3://bucket/my folder/?region=eu-central-1")
    assert (storage.path, storage.is_local) == ("bucket/my folder", False)
    assert storage.address(storage.join("a.png")) == "s3://bucket/my folder/a.png"
    assert storage.filesystem.region == "eu-central-1"


def test_reasons_of_services_are_short():
    text = "When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2 operation: None"
    assert reason_of(OSError(text)) == "ACCESS_DENIED"
    assert reason_of(FileNotFoundError(2, "x")) == "there is no such file or folder"
    assert reason_of(OSError("something else")) == "something else"
