"""Registry of criteria."""

from __future__ import annotations

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """
Criteria by name, chosen by `MODEL.HIPIE.LOSS.THING_CRITERION` and `STUFF_CRITERION`. An entry is a
module that is built from a configuration, `MyCriterion(cfg)`, and is called as
`criterion(output, targets, mask_head, text_mask)` with a `DecoderOutput`, one `Targets` an image,
the decoder's `MaskHead` and [B, T] bool; it returns scalars by name.
"""


def build_criterion(name: str, cfg: CfgNode) -> nn.Module:
    """Build the criterion that is registered as `name`.

    Raises:
        KeyError: if there is none.
    """
    return CRITERION_REGISTRY.get(name)(cfg)
