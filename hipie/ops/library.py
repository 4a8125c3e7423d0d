"""The operator's schema, and the compiled libraries that implement it.

The distribution ``hipie-ops`` ships the files of this folder as ``hipie_ops._ops``, which is why
they import each other relatively. A process has one copy: both register the namespace ``hipie``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

# The package, its distribution, and the command that reports on it, as messages name them.
BUNDLED = "hipie_ops._ops"
if __package__ == BUNDLED:
    PACKAGE, DISTRIBUTION, REPORT = "hipie_ops", "hipie-ops", "python -m hipie_ops.check"
else:
    PACKAGE, DISTRIBUTION, REPORT = "hipie.ops", "hipie", "python -m hipie doctor"
    if f"{BUNDLED}.library" in sys.modules:
        raise ImportError(
            "hipie.ops cannot be imported: hipie_ops was imported when hipie could not be found, "
            "and a process has one operator; set the path of hipie before hipie_ops is imported"
        )

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


# What csrc/built_for.h puts into a library.
_BUILT_FOR = re.compile(rb"hipie: built for torch (\d+)\.(\d+)")


def built_for(path: Path) -> tuple[int, int] | None:
    """Return the torch release, (major, minor), that a library says it was built for, or None."""
    match = _BUILT_FOR.search(path.read_bytes())
    return (int(match[1]), int(match[2])) if match else None


def _load(path: Path) -> str | None:
    """Load a library of kernels; return the reason if that fails, else None."""
    if not path.exists():
        return f"it was not built: {path.name} is missing from {path.parent}"
    release = built_for(path)
    installed = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if release is not None and installed is not None:
        major, minor = (int(number) for number in installed.groups())
        if release != (major, minor):
            return (
                f"it was built for torch {release[0]}.{release[1]} and torch {torch.__version__} "
                f"is installed; install torch {release[0]}.{release[1]}, or build it again"
            )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        return f"it does not load into torch {torch.__version__}, build it again: {reason}"
    return None


cpu_problem: str | None = _load(CPU_LIBRARY)
cuda_problem: str | None = _load(CUDA_LIBRARY) if torch.version.cuda else "torch has no CUDA"
