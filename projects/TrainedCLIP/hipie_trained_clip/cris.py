"""CRIS: CLIP-driven referring segmentation by text-to-pixel contrastive learning.

Wang, Lu, Li, Tao, Guo, Gong, Liu, CVPR 2022.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.modeling.open_vocabulary.clip import encode_text_tokens
from hipie_trained_clip.checkpoint_converters import OFFICIAL_CRIS
from hipie_trained_clip.modeling.clip_encoders import (
    DensePooling,
    require_encoders,
    resnet_stages,
    resnet_stem,
    stage_channels,
)
from hipie_trained_clip.modeling.cross_modal_neck import CrossModalNeck
from hipie_trained_clip.referring import DecoderConfig, ReferringCLIP, rows_of

STRIDE = 32


@META_ARCH_REGISTRY.register()
class CRIS(ReferringCLIP):
    """CLIP's ResNet and text encoder, a cross-modal neck, a decoder, and a projector.

    All of CLIP is trained. The projector makes a convolution of the expression's feature and
    applies it to all pixels, so that pixels of the target are similar to the text (eq. 6 to 8).

    Args:
        decoder: sizes.
        options: of `ReferringCLIP`.
    """

    @configurable
    def __init__(self, *, decoder: DecoderConfig | None = None, **options: Any) -> None:
        decoder = decoder or DecoderConfig()
        require_encoders(options["clip"], type(self).__name__, vit=False)
        super().__init__(decoder=decoder, divisor=STRIDE, **options)
        fine, middle, coarse = stage_channels(self.backbone.visual)
        self.pooling = DensePooling(coarse, self.joint_channels)
        self.neck = CrossModalNeck(
            (fine, middle, self.joint_channels), self.joint_channels, decoder.channels
        )

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_CRIS,)

    def mask_logits(self, images: Tensor, ids: Tensor, image_of: Tensor | None = None) -> Tensor:
        """Compute mask logits; see `ReferringCLIP.mask_logits`."""
        visual = self.backbone.visual
        x = resnet_stem(visual, images)
        levels = []
        for stage in resnet_stages(visual):
            x = stage(x)
            levels.append(x)
        levels[-1] = self.pooling(visual.attnpool, x)
        words, text = encode_text_tokens(self.backbone, ids)
        features = self.neck([rows_of(level, image_of) for level in levels], text)
        return self.projector(self.decoder(features, words, ids == 0), text)
