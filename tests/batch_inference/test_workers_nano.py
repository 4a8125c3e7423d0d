"""Two processes with the packaged model give the results of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hipie.data.picturebook import PictureBook


@pytest.mark.slow
def test_two_processes_with_the_packaged_model_give_the_results_of_one(in_tmp):
    book = PictureBook(3, "val")
    (in_tmp / "p").mkdir()
    for number in range(4):
        Image.fromarray(book.page(number).image).save(in_tmp / f"p/{number}.png")
    command = [sys.executable, "-m", "hipie", "segment", "p", "--things", "house; car; person"]
    command += ["--stuff", "sky; grass", "--parts", "house: door", "--threads", "1", "--device"]
    command += ["cpu", "--config-file", "nano/hipie_nano_picturebook.yaml", "--format", "json,coco"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for more in (["--output", "one"], ["--output", "two", "--workers", "2"]):
        done = subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == f"{more[1]}: 4 done, 0 skipped, 0 failed"
    names = sorted(path.name for path in Path("one").glob("*.json"))
    assert names == [*(f"{number}.json" for number in range(4)), "coco_instances.json"]
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    assert len(json.loads(Path("one/coco_instances.json").read_text())["annotations"]) > 4
