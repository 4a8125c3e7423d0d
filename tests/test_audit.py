"""Commands on the embedded models open no connection, start nothing, and write where they may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests/audited_commands.py"
MODEL = "nano/hipie_nano_picturebook.yaml"
SMALL = [
    *("DATASETS.TRAIN", "('picturebook_train_panoptic',)", "DATALOADER.DATASET_BATCH_SIZE", "(2,)"),
    *("DATASETS.TEST", "('picturebook_val_panoptic',)", "DATALOADER.DATASET_RATIO", "(1,)"),
    *("PICTUREBOOK.TRAIN_PAGES", "2", "PICTUREBOOK.VAL_PAGES", "1", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"),
]


def audited(commands: list[list[str]], folder: Path, allowed: list[Path]) -> list[list[str]]:
    """Run commands in one process under the audit hook; return command and event of each breach."""
    for name in ("home", "here", "temporary"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "home/.config/matplotlib").mkdir(parents=True)
    caches = ("XDG_", "TORCH", "TRITON", "HF_", "MPL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(caches)}
    environment = {
        **kept,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, ROOT.glob("projects/*/"))]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    own = ("home/.cache", "home/.config/matplotlib", "temporary")
    folders = [*(str(folder / name) for name in own), *map(str, allowed)]
    request = json.dumps({"commands": commands, "allowed": folders})
    done = subprocess.run(
        [sys.executable, str(PROGRAM), request],
        cwd=folder / "here",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_commands_touch_nothing_else(tmp_path: Path) -> None:
    """By the hook in Python, and by the files that exist afterwards, which C++ writes as well."""
    inputs, output = tmp_path / "inputs", tmp_path / "output"
    inputs.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(inputs / "image.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
    box |= {"area": 400, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}
    image = {"id": 1, "file_name": "image.png", "width": 96, "height": 64}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "dog"}]}
    (inputs / "data.json").write_text(json.dumps(content))
    before = {path: path.stat().st_mtime_ns for path in inputs.iterdir()}
    source = {path: path.stat().st_mtime_ns for path in files_of_the_package()}

    image = str(inputs / "image.png")
    weights = str(ROOT / "hipie/model_zoo/weights/hipie_nano_picturebook.pth")
    run = [*SMALL, "PICTUREBOOK.ROOT", str(output / "book"), "OUTPUT_DIR"]
    breaches = audited(
        [
            ["segment", image, "--things", "dog", "--output", str(output / "segment")],
            ["refer", image, "the dog", "--output", str(output / "refer")],
            ["group", "the dog", image, "--output", str(output / "group")],
            ["demo", "--input", image, "--things", "dog", "--output", str(output / "demo")],
            ["data", "check", str(inputs / "data.json"), "--images", str(inputs)],
            ["checkpoint", "inspect", weights],
            ["doctor"],
            ["models", "list"],
            ["train", "--config-file", MODEL, *run, str(output / "train")],
            ["eval", "--config-file", MODEL, *run, str(output / "eval")],
        ],
        tmp_path,
        [output],
    )
    assert not breaches, "\n".join(map(str, breaches))
    assert before == {path: path.stat().st_mtime_ns for path in inputs.iterdir()}
    assert source == {path: path.stat().st_mtime_ns for path in files_of_the_package()}
    assert not list((tmp_path / "here").iterdir())
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {".cache", ".config"}
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert all(name.startswith("torchinductor_") for name in left), left  # PyTorch's cache
    assert (output / "segment").is_dir() and (output / "train/model_final.pth").is_file()


def files_of_the_package() -> list[Path]:
    """All files that are installed, but for bytecode."""
    folders = [ROOT / "hipie", ROOT / "configs", *ROOT.glob("projects/*")]
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def test_breaches_are_noticed(tmp_path: Path) -> None:
    """The hook sees a socket, a process, and a file of every kind outside the folders."""
    source = PROGRAM.read_text().partition("def main()")[0]
    (tmp_path / "allowed").mkdir()
    calls = f"""
import pathlib, shutil, socket, subprocess, urllib.request
home = pathlib.Path({str(tmp_path)!r})
(home / "allowed/inside").write_text("")
(home / "outside").write_text("")
(home / "allowed/../up").write_text("")
(home / "outside").rename(home / "moved")
(home / "folder").mkdir()
subprocess.run(["true"])
with socket.socket() as connection:
    connection.settimeout(1)
    try:
        connection.connect(("127.0.0.1", 9))
    except OSError:
        pass
open(home / "moved").read()
print(json.dumps([event for _, event in events]))
"""
    request = json.dumps({"allowed": [str(tmp_path / "allowed")]})
    done = subprocess.run(
        [sys.executable, "-c", source + calls, request], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = [event.split()[0] for event in json.loads(done.stdout)]
    files = ["open", "open", "os.rename", "os.rename", "os.mkdir"]
    assert names[:5] == files and "inside" not in done.stdout
    assert {"subprocess.Popen", "socket.connect"} <= set(names[5:])
