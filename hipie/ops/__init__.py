"""Multi-scale deformable attention: the operator, its meaning, and a module."""

from hipie.ops.reference import ms_deform_attn_reference

ms_deform_attn = ms_deform_attn_reference

from hipie.ops.module import MSDeformAttn  # noqa: E402

__all__ = ["MSDeformAttn", "ms_deform_attn", "ms_deform_attn_reference"]
