"""Multi-scale deformable attention: the operator, its reference form, and a module."""

from .explanation import Explanation, explain
from .module import MSDeformAttn
from .operator import ms_deform_attn
from .patching import OperatorNotBuiltError, Patch, patch, unpatch
from .reference import ms_deform_attn_reference

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
