"""`import hipie_ops.drop_in` provides the extension module ``MultiScaleDeformableAttention``."""

from __future__ import annotations

from importlib import import_module

from hipie_ops import IMPLEMENTATION

install = import_module(f"{IMPLEMENTATION}.drop_in").install
