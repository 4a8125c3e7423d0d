"""Multi-scale deformable attention: the operator, its reference form, and a module."""

from hipie.ops.explanation import Explanation, explain
from hipie.ops.module import MSDeformAttn
from hipie.ops.operator import ms_deform_attn
from hipie.ops.patching import OperatorNotBuiltError, Patch, patch, unpatch
from hipie.ops.reference import ms_deform_attn_reference

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
