"""Parameters without weight decay: norms, embeddings, learned tokens and residual scales."""

from __future__ import annotations

import re

from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm)
# Position and level embeddings, learned tokens, BERT's embeddings, residual scales.
_EMBEDDINGS = re.compile(
    r"(pos_embed|rel_pos_[hw]|level_embedding|positional_embedding|gamma(_text|_vision)?)$"
    r"|(context|sparse|position|iou_token|mask_tokens|no_mask_embed|not_a_point_embed)\.weight$"
    r"|point_embeddings\.\d\.weight$"
    r"|text_encoder\..*embedding"
)


def parameters_without_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of a ReferSAM's parameters that have no weight decay."""
    names = {name for name, _ in model.named_parameters() if _EMBEDDINGS.search(name)}
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS) or type(module).__name__ == "LayerNorm2d":
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
