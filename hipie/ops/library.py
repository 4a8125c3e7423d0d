"""The operator's schema, and the compiled libraries that implement it."""

from __future__ import annotations

from pathlib import Path

import torch

FOLDER = Path(__file__).parent
CPU_LIBRARY = FOLDER / "_C.so"
CUDA_LIBRARY = FOLDER / "_C_cuda.so"

library = torch.library.Library("hipie", "DEF")
library.define(
    "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index,"
    " Tensor sampling_locations, Tensor attention_weights) -> Tensor"
)
library.define(
    "ms_deform_attn_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes,"
    " Tensor level_start_index, Tensor sampling_locations, Tensor attention_weights)"
    " -> (Tensor, Tensor, Tensor)"
)
library.define(
    "depthwise_weight_gradient(Tensor grad_output, Tensor input, int kernel, int stride,"
    " int padding) -> Tensor"
)


def _load(path: Path) -> str | None:
    """Load a library of kernels; return the reason if that fails, else None."""
    if not path.exists():
        return f"it was not built: {path.name} is missing from {path.parent}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        return f"it does not load into torch {torch.__version__}, build it again: {reason}"
    return None


cpu_problem: str | None = _load(CPU_LIBRARY)
cuda_problem: str | None = _load(CUDA_LIBRARY) if torch.version.cuda else "torch has no CUDA"
