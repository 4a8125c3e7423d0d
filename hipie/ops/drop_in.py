"""The extension module ``MultiScaleDeformableAttention`` that other projects import.

Deformable DETR, Mask2Former, MaskDINO and many others compile an extension of that name. After
``import hipie.ops.drop_in`` their ``import MultiScaleDeformableAttention`` finds this module, and
their own code runs on the operator of this package, on the CPU too. :func:`hipie.ops.patch` does
the same for more projects, and can be undone.
"""

from __future__ import annotations

import sys
from types import ModuleType

from .stand_in_modules import (
    DEFORMABLE_DETR,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)

NAME = DEFORMABLE_DETR


def install() -> ModuleType:
    """Put the module into ``sys.modules``, in place of one that was imported before."""
    module = ModuleType(NAME, __doc__)
    for function in (ms_deform_attn_forward, ms_deform_attn_backward):
        setattr(module, function.__name__, function)
    sys.modules[NAME] = module
    return module


install()
