"""Runs of several processes: the results of one process, processes that end, Ctrl-C and kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from hipie.batch_inference import RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.batch_inference.run_folder import STATE
from hipie.batch_inference.workers import WorkerPool
from hipie.errors import InputError, MachineError, UsageError
from tests.batch_inference.stub import IDENTITY, SETTINGS, segment, write_image
from tests.batch_inference.test_runner import errors_of, run_on, tree, write_video

FORMATS = ("json,overlay,coco,coco-panoptic,label-map,yolo,labelme,cvat,label-studio,parquet",)


def build(folder="", seconds=0.0):
    """Build the stub, whose process ends at images with the values 100 (once) and 101 (always).

    It fails for 102, does not like its arguments for 103, and lists what it has segmented.
    """

    def call(pixels):
        value = int(pixels[0, 0, 0])
        time.sleep(seconds)
        if folder:
            with open(f"{folder}/calls", "a") as file:
                file.write(f"{value}\n")
        if value == 101 or (value == 100 and not os.path.exists(f"{folder}/once")):
            Path(f"{folder}/once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if value == 102:
            raise MemoryError
        if value == 103:
            raise InputError("these are no class names")
        return segment(pixels)

    return call, {"identity": IDENTITY}


def fail_to_build(error):
    raise error


def end_at_once():
    os._exit(3)


def run_with(pool, output, *arguments, formats=FORMATS, **options):
    listing = {name: options.pop(name) for name in ("recursive", "every") if name in options}
    inputs = find_inputs(arguments, exclude=str(output), **listing)
    with RunFolder(output, IDENTITY, settings=SETTINGS) as folder:
        summary = run(inputs, folder, build_formats(formats), pool, **options)
    return summary.done, summary.skipped, summary.failed


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    with WorkerPool(2, partial(build, str(folder)), threads=1, start_method="fork") as built:
        built.folder = folder
        yield built


def test_results_are_those_of_one_process(pool, in_tmp, capsys):
    for number in range(9):
        write_image(in_tmp / f"p/{'ab'[number % 2]}/{number}.png", number, (20 + number, 30))
    write_video(in_tmp / "p/v.avi", 5)
    (in_tmp / "p/bad.png").write_text("no image")
    names = (*FORMATS, "jsonl")
    options = {"recursive": True, "every": 2, "formats": names}
    assert run_on("one", "p", **options) == (12, 0, 1)
    lines = capsys.readouterr().out
    assert run_with(pool, "two", "p", **options) == (12, 0, 1)
    assert capsys.readouterr().out == lines
    one, two = tree(in_tmp / "one"), tree(in_tmp / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert run_with(pool, "two", "p", **options) == (0, 12, 1)


def test_a_process_that_ends_loses_no_image(pool, in_tmp):
    for number in range(6):
        write_image(in_tmp / f"p/{number}.png", 100 if number == 2 else number)
    (pool.folder / "once").unlink(missing_ok=True)
    assert run_with(pool, "out", "p") == (6, 0, 0)
    assert (pool.folder / "once").exists()
    assert run_on("one", "p", formats=FORMATS) == (6, 0, 0)
    assert tree(in_tmp / "out") == tree(in_tmp / "one")


def test_an_image_that_ends_processes_is_a_failure(pool, in_tmp):
    for number, value in enumerate((1, 101, 2, 102, 3)):
        write_image(in_tmp / f"p/{number}.png", value)
    assert run_with(pool, "out", "p") == (3, 0, 2)
    ended, memory = errors_of("out")
    assert ended["file"] == "p/1.png" and memory["file"] == "p/3.png"
    assert "has ended 2 times (signal SIGKILL)" in ended["error"]


def test_class_names_that_no_image_has_end_the_run(pool, in_tmp):
    for number in range(4):
        write_image(in_tmp / f"p/{number}.png", 103 if number == 1 else number)
    with pytest.raises(InputError, match="these are no class names"):
        run_with(pool, "out", "p")
    assert len(tree(in_tmp / "out")) > 0 and errors_of("out") == []


def test_strict_runs_stop_at_the_first_failure_in_order(pool, in_tmp):
    write_image(in_tmp / "p/1.png", 1)
    (in_tmp / "p/2.png").write_text("Dear reader")
    write_image(in_tmp / "p/3.png", 3)
    with pytest.raises(InputError, match=r"p/2\.png"):
        run_with(pool, "out", "p", strict=True)
    assert (in_tmp / "out/1.json").exists() and not (in_tmp / "out/3.json").exists()


def test_errors_of_building_are_raised():
    with pytest.raises(UsageError, match="no such model"):
        WorkerPool(2, partial(fail_to_build, UsageError("no such model")), start_method="fork")
    with pytest.raises(MachineError, match=r"have ended 3 times \(exit status 3\)"):
        WorkerPool(1, end_at_once, start_method="fork")


PROGRAM = """
import sys
from hipie.error_report import run_program

def main():
    from functools import partial
    from hipie.batch_inference.workers import WorkerPool
    from tests.batch_inference.test_workers import build, run_with
    with WorkerPool(2, partial(build, "log", 0.03), threads=1) as pool:
        print(" ".join(str(w.process.pid) for w in pool._workers), flush=True)
        counts = run_with(pool, "out", "p", formats=("json,overlay",))
    print(*counts)
    return 0

if __name__ == "__main__":
    sys.exit(run_program("program", main))
"""


def start_program(folder):
    (folder / "log").mkdir(exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def recorded():
    path = Path("out") / STATE / "records.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [int(Path(json.loads(line)["source"]).stem) for line in lines]


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def require_whole_files():
    for path in Path("out").rglob("*.json"):
        json.loads(path.read_text())
    for path in Path("out").glob("*.png"):
        Image.open(path).load()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="lists processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_run(in_tmp, monkeypatch, number):
    """One Ctrl-C, which all processes of a terminal get, and kill -9 of the first process."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    for image in range(60):
        write_image(in_tmp / f"p/{image}.png", image)
    program = start_program(in_tmp)
    numbers = [int(word) for word in program.stdout.readline().split()]
    wait_until(lambda: len(recorded()) > 3)
    if number == signal.SIGINT:
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.kill()
    output, errors = program.communicate(timeout=120)
    wait_until(lambda: not any(map(is_running, numbers)))
    assert errors == "" and output == ""
    assert program.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    before = recorded()
    assert 3 < len(before) < 60 and len({*before}) == len(before)
    require_whole_files()
    if number == signal.SIGINT:
        assert len(list(Path("out").glob("*.png"))) == len(before)
    Path("log/calls").unlink()
    assert run_on("out", "p", formats=("json,overlay",)) == (60 - len(before), len(before), 0)
    assert len(list(Path("out").glob("*.png"))) == 60


@pytest.mark.slow
def test_runs_of_processes_that_are_killed_lose_and_repeat_nothing(in_tmp, monkeypatch):
    """Twenty times at a random moment, the run or one of its processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    count, chance = 400, random.Random(0)
    for image in range(count):
        write_image(in_tmp / f"p/{image}.png", image % 90)
    for attempt in range(20):
        before = {*recorded()}
        Path("log").mkdir(exist_ok=True)
        program = start_program(in_tmp)
        numbers = [int(word) for word in program.stdout.readline().split()]
        time.sleep(chance.uniform(0.0, 0.6))
        if attempt % 2:
            os.kill(chance.choice(numbers), signal.SIGKILL)
            time.sleep(chance.uniform(0.0, 0.2))
        program.kill()
        program.communicate(timeout=120)
        wait_until(lambda numbers=numbers: not any(map(is_running, numbers)))
        assert before <= {*recorded()}
        require_whole_files()
    numbers = recorded()
    assert len(numbers) > 20 and len({*numbers}) == len(numbers)
    done, skipped, failed = run_on("out", "p", formats=("json,overlay",))
    assert (done + skipped, failed) == (count, 0) and skipped == len(numbers)
    assert len(list(Path("out").glob("*.png"))) == count
