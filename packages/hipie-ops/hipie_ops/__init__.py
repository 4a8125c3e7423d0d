"""Multi-scale deformable attention for PyTorch, with kernels for CPU and CUDA.

This distribution has the files of ``hipie.ops`` and its compiled library, and depends on torch
only. A process can have one copy of the operator: where ``hipie`` is installed too, the names below
are those of ``hipie.ops``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

# The package with the implementation.
IMPLEMENTATION = "hipie_ops._ops"
if find_spec("hipie") is not None and find_spec("hipie.ops") is not None:
    IMPLEMENTATION = "hipie.ops"

_implementation = import_module(IMPLEMENTATION)
Explanation = _implementation.Explanation
MSDeformAttn = _implementation.MSDeformAttn
OperatorNotBuiltError = _implementation.OperatorNotBuiltError
Patch = _implementation.Patch
explain = _implementation.explain
ms_deform_attn = _implementation.ms_deform_attn
ms_deform_attn_reference = _implementation.ms_deform_attn_reference
patch = _implementation.patch
unpatch = _implementation.unpatch

__all__ = [
    "Explanation",
    "MSDeformAttn",
    "OperatorNotBuiltError",
    "Patch",
    "explain",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "patch",
    "unpatch",
]
