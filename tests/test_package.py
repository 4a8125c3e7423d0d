"""`import hipie`: lazy, with a message for missing dependencies."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import hipie

# Makes Detectron2 unimportable in the process that runs it.
ABSENT = """
import sys, warnings
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name="detectron2")
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "detectron2" else real(name, *a)
sys.meta_path.insert(0, Absent())
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_names_are_lazy():
    done = python("import sys, hipie; print('torch' in sys.modules, 'detectron2' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_public_names_are_available():
    assert callable(hipie.add_hipie_config)
    assert callable(hipie.model_zoo.get_config_file)
    assert {"Segmenter", "add_hipie_config", "model_zoo"} <= set(dir(hipie))
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = hipie.Segmentor


def test_without_detectron2_the_import_prints_the_command():
    done = python(ABSENT + "import hipie")
    assert done.returncode == 0, done.stderr
    assert "pip install --no-build-isolation git+" in done.stderr
    assert "install/get_detectron2.py" in done.stderr


def test_without_detectron2_names_that_need_it_print_the_command():
    done = python(ABSENT + "warnings.simplefilter('ignore'); from hipie import Segmenter")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "hipie needs Detectron2" in last
    assert "pip install" in last


def test_without_detectron2_the_operator_works():
    done = python(
        ABSENT
        + """
warnings.simplefilter("ignore")
import torch
from hipie.ops import ms_deform_attn_reference as op
shapes, starts = torch.tensor([[2, 2]]), torch.tensor([0])
out = op(torch.ones(1, 4, 1, 8), shapes, starts, torch.full((1, 3, 1, 1, 1, 2), 0.5),
         torch.ones(1, 3, 1, 1, 1))
print(out.shape, float(out.mean()))
"""
    )
    assert done.stdout.strip() == "torch.Size([1, 3, 8]) 1.0", done.stderr
