"""Exported models in tests: the programs of `examples/`, and runs of files of every format."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    """A program of `examples/`; the test is skipped without onnxruntime."""
    pytest.importorskip("onnxruntime")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        return importlib.import_module(name)


class NetworkSession:
    """Has the methods of an onnxruntime session that the programs call; runs PyTorch."""

    def __init__(self, network: torch.nn.Module, about: dict[str, Any]) -> None:
        self._network = network
        self._meta = SimpleNamespace(custom_metadata_map={"hipie": json.dumps(about)})

    def get_modelmeta(self) -> Any:
        return self._meta

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.no_grad():
            outputs = self._network(**tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.numpy() for output in outputs]


def require(format_: str) -> None:
    if format_ != "torchexport":
        pytest.importorskip("onnxruntime")
    if format_ == "openvino":
        pytest.importorskip("openvino")


def run_file(
    format_: str, file: Path, inputs: dict[str, torch.Tensor], names: Sequence[str]
) -> list[Any]:
    """Outputs of an exported file, in the order of their names."""
    if format_ == "torchexport":
        outputs = torch.export.load(file).module()(*inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.detach().numpy() for output in outputs]
    arrays = {name: value.numpy() for name, value in inputs.items()}
    if format_ == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(file)).run(list(names), arrays)
    import openvino

    results = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        arrays
    )
    return [results[name] for name in names]
