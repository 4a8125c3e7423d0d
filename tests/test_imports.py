"""Modules that the start of a program imports: only those that it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hipie.batch_inference

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "hipie/examples/photographs/citrus.jpg"


def modules_after(program: str, *arguments: str) -> set[str]:
    """Names of all modules that a new process has after a program."""
    report = "\nimport json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program + report, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return set(json.loads(done.stderr.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    """Top-level packages of modules."""
    return {name.partition(".")[0] for name in modules}


@pytest.fixture(scope="module")
def of_torch() -> set[str]:
    return modules_after("import numpy, torch, PIL.Image")


def test_taking_the_segmenter_imports_little_more_than_torch(of_torch: set[str]) -> None:
    """Measured: 45 modules more; with Detectron2 and transformers it were 3000."""
    more = modules_after("from hipie import Segmenter") - of_torch
    heavy = {"detectron2", "torchvision", "transformers", "timm", "matplotlib", "scipy", "cv2"}
    heavy |= {"huggingface_hub", "open_clip", "segment_anything", "pycocotools", "sympy"}
    assert not packages(more) & heavy
    assert "torch._dynamo" not in more
    assert len(more) < 100, sorted(more)


def test_segmenting_one_image_imports_no_other_command(of_torch: set[str], tmp_path: Path) -> None:
    """Neither the trainer nor formats of many images, CLIP, or k-means of other models."""
    program = "import sys; from hipie.cli.main import main; assert main(sys.argv[1:]) == 0"
    arguments = ["segment", str(IMAGE), "--things", "fruit", "--device", "cpu"]
    modules = modules_after(program, *arguments, "--output", str(tmp_path))
    unneeded = {"open_clip", "pandas", "tensorboard", "scipy.cluster", "scipy.sparse.csgraph"}
    unneeded |= {"hipie.engine.trainer", "hipie.batch_inference.formats", "hipie.cli.train"}
    assert "hipie.modeling.meta_arch.hipie" in modules
    assert not modules & unneeded
    assert len(modules - of_torch) < 3600


def test_names_of_batch_inference_are_imported_on_first_access() -> None:
    program = """
        import sys
        import hipie.batch_inference as package

        dir(package)
        print("hipie.batch_inference.formats" in sys.modules)
        package.FORMAT_REGISTRY, package.run
        print("hipie.batch_inference.formats" in sys.modules)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = hipie.batch_inference.walk
