from __future__ import annotations

import pytest
import torch

from hipie.ops import explain, explanation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_names_the_native_kernel(make_problem, dtype):
    found = explain(*make_problem([(3, 4)], dtype=dtype))
    assert found.implementation.startswith("native CPU kernel (")
    assert found.mend is None
    assert "native CUDA kernel" in found.rejected
    assert found.versions["torch"] == torch.__version__
    assert "runs:    native CPU kernel" in str(found)


def test_invalid_arguments_are_explained(make_problem):
    value, *rest = make_problem([(3, 4)])
    found = explain(value[:, :-1], *rest)
    assert found.implementation is None
    assert "does not lie within" in found.refused
    assert "nothing: " in str(found)


def test_another_device_runs_in_plain_pytorch():
    found = explain(torch.empty((1, 1, 1, 1), device="meta"))
    assert found.implementation == "plain PyTorch"
    assert found.rejected["native CUDA kernel"] == "the tensors are on meta"


def test_broken_build_reports_the_build_command(monkeypatch):
    monkeypatch.setattr(explanation, "cpu_problem", "it was not built")
    found = explain()
    assert found.implementation == "plain PyTorch"
    assert found.rejected["native CPU kernel"] == "it was not built"
    assert "setup.py build_ext --inplace" in found.mend or "pip install" in found.mend
    assert found.mend in str(found)
