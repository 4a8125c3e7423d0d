"""Which parameters are not pulled towards 0: norms, tables, prompts, gammas."""

from __future__ import annotations

import re

from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm)
# Tables of positions and levels, learned tokens, BERT's embeddings, scales of residuals.
_TABLES = re.compile(
    r"(pos_embed|rel_pos_[hw]|level_embedding|positional_embedding|gamma(_text|_vision)?)$"
    r"|(context|sparse|position|iou_token|mask_tokens|no_mask_embed|not_a_point_embed)\.weight$"
    r"|point_embeddings\.\d\.weight$"
    r"|text_encoder\..*embedding"
)


def names_without_decay(model: nn.Module) -> set[str]:
    """Names of such parameters of a ReferSAM."""
    names = {name for name, _ in model.named_parameters() if _TABLES.search(name)}
    for place, module in model.named_modules():
        if isinstance(module, NORMS) or type(module).__name__ == "LayerNorm2d":
            names |= {f"{place}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
