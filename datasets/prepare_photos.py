#!/usr/bin/env python
"""Download three annotated photographs of Pascal VOC 2011 in COCO's format.

    python datasets/prepare_photos.py [--root datasets/photos]

They are part of the source distribution of labelme (an annotation tool; GPL-3.0, the photographs
under Flickr's terms), which pip downloads. Nothing of it is installed or run apart from what pip
does to read its name. Existing files with the right checksum are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hipie.atomic_file import open_replaced
from hipie.data.preparation.cli import run_preparation
from hipie.data.preparation.sources import read_tar_members
from hipie.errors import InputError

SOURCE = (
    "labelme==6.3.1 --hash=sha256:2947e0d8341a92faa7b3ee50cf4b672f838051c6bf24892526e95b64fd3a707e"
)
INSIDE = "labelme-6.3.1/examples/instance_segmentation/data_dataset_coco"
SHA256 = {
    "annotations.json": "935081d34679b92a74e0dc1acf04e5ac97b01cba7eefe26d5572e761ebf16ec2",
    "JPEGImages/2011_000003.jpg": (
        "40c7f2fbf740c7e9707f97047a83593f6c36d8951a737b4287528932d809e80d"
    ),
    "JPEGImages/2011_000006.jpg": (
        "9f58b8e4aca7f0411d3c8fe365da1ba5de9c36c729bda2f32cefbbb246ef1e1f"
    ),
    "JPEGImages/2011_000025.jpg": (
        "52794c29522d495c942baf7d41823b91479ec55723bcc72d6080540831701b82"
    ),
}
MAX_BYTES = 10_000_000


class PhotosError(InputError):
    """The photographs could not be downloaded or unpacked."""


def is_complete(root: Path) -> bool:
    """Return whether all files are in `root` with the right checksum."""
    return all(
        (root / name).is_file()
        and hashlib.sha256((root / name).read_bytes()).hexdigest() == expected
        for name, expected in SHA256.items()
    )


def download(folder: Path) -> Path:
    """Download labelme's source distribution to `folder`.

    Raises:
        PhotosError: if pip fails.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(SOURCE, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary=:all:", "--require-hashes"]
    command += [f"--requirement={requirements}", f"--dest={folder}"]
    if subprocess.run(command).returncode:
        raise PhotosError(
            "pip could not download labelme's source distribution; its messages are above"
        )
    return next(folder.glob("*.tar.gz"))


def unpack(archive: Path, root: Path) -> None:
    """Write the photographs and their annotations into `root`.

    Raises:
        PhotosError, SourceError: if the archive is damaged, lacks a file or holds another one of
            its name, or another file exists in its place.
    """
    contents = read_tar_members(archive, {f"{INSIDE}/{name}": MAX_BYTES for name in SHA256})
    for name, expected in SHA256.items():
        data = contents.get(f"{INSIDE}/{name}")
        if data is None:
            raise PhotosError(f"{archive.name} has no {INSIDE}/{name}")
        if hashlib.sha256(data).hexdigest() != expected:
            raise PhotosError(f"{archive.name}: {name} has another checksum than expected")
        target = root / name
        if os.path.lexists(target) and not (
            target.is_file() and target.stat().st_size == len(data)
        ):
            raise PhotosError(f"{target}: it exists and is another file; move it away")
        with open_replaced(target) as stream:
            stream.write(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("datasets/photos"), metavar="FOLDER")
    root = parser.parse_args(arguments).root

    def write() -> int:
        if is_complete(root):
            print(f"{root}: three photographs and their annotations exist")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(Path(folder)), root)
        print(f"{root}: three photographs and their annotations were written")
        return 0

    return run_preparation(parser.prog, write)


if __name__ == "__main__":
    sys.exit(main())
