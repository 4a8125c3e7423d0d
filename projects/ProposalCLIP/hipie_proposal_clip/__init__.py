"""Mask classification with CLIP: masks of a trained decoder, SAM, clusters or another model.

FC-CLIP (Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen
Convolutional CLIP", NeurIPS 2023) and OVSeg (Liang et al., "Open-Vocabulary Semantic Segmentation
with Mask-adapted CLIP", CVPR 2023). Importing the package registers the architecture
`ProposalCLIP`, the loss term `class_cross_entropy_loss` and the matcher
`MaskClassificationMatcher`.
"""

from hipie_proposal_clip.config import add_hipie_proposal_clip_config
from hipie_proposal_clip.meta_arch import ProposalCLIP
from hipie_proposal_clip.modeling.criterion import (
    MaskClassificationMatcher,
    class_cross_entropy_loss,
)

__all__ = [
    "MaskClassificationMatcher",
    "ProposalCLIP",
    "add_hipie_proposal_clip_config",
    "class_cross_entropy_loss",
]
