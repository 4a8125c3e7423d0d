"""EfficientSAM: a plain ViT and a light decoder, for points and boxes.

Xiong et al., "EfficientSAM: Leveraged Masked Image Pretraining for Efficient Segment Anything",
CVPR 2024. Against SAM: the encoder attends globally in all blocks; the decoder has GELU and a group
norm of one group; a prompt is always six points, of which a box takes two; there is no mask prompt,
and a point outside the object has no embedding of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import Rename
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.small_encoders import CHANNELS, sam_neck
from hipie.modeling.sam.stretched import StretchedSam

MAX_POINTS = 6
# Labels of points.
INVALID, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 1, 2, 3
# Side of the images that the encoder was pre-trained with.
_PRETRAINED_SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlainViTEncoder(nn.Module):
    """Plain ViT with SAM's neck; position embeddings are resized bicubically.

    Args:
        width: channels of the tokens.
        heads: number of attention heads.
        depth: number of blocks.
        img_size: side of the square input.
        patch: side of a patch.
    """

    def __init__(
        self, width: int, heads: int, depth: int = 12, img_size: int = 1024, patch: int = 16
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        grid = _PRETRAINED_SIDE // patch
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.neck = sam_neck(width)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels [B, 3, S, S] to features [B, 256, S/16, S/16]."""
        projected = self.patch_embed["proj"](x)
        size = projected.shape[-2:]
        side = int(self.pos_embed.shape[1] ** 0.5)  # without the class token's
        positions = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if tuple(size) != (side, side):
            positions = F.interpolate(positions, size, mode="bicubic", align_corners=False)
        tokens = (projected + positions).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.neck(tokens.transpose(1, 2).unflatten(2, size))
        return features


class PointEncoder(nn.Module):
    """Embeddings of points and of the corners of boxes.

    Args:
        side: of the square input.
        grid: side of the feature map.
    """

    def __init__(self, side: int, grid: int) -> None:
        super().__init__()
        self.side, self.grid = side, grid
        self.mask_input_size = (4 * grid, 4 * grid)
        self.pe_layer = PositionEmbeddingRandom(CHANNELS // 2)
        self.invalid_points = nn.Embedding(1, CHANNELS)
        self.point_embeddings = nn.Embedding(1, CHANNELS)
        self.bbox_top_left_embeddings = nn.Embedding(1, CHANNELS)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, CHANNELS)

    def get_dense_pe(self) -> Tensor:
        """Position embeddings [1, 256, g, g] of the feature map."""
        embeddings: Tensor = self.pe_layer((self.grid, self.grid))[None]
        return embeddings

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points [N, P, 2] in pixels of the square with labels [N, P]: [N, P, 256]."""
        tokens: Tensor = self.pe_layer.forward_with_coords(points + 0.5, (self.side, self.side))
        for label, table in (
            (INVALID, self.invalid_points),
            (INSIDE, self.point_embeddings),
            (TOP_LEFT, self.bbox_top_left_embeddings),
            (BOTTOM_RIGHT, self.bbox_bottom_right_embeddings),
        ):
            tokens = tokens + table.weight * (labels == label)[..., None]
        return tokens


class _Block(TwoWayAttentionBlock):
    """SAM's block, whose self-attention is always residual and attends to positions as values."""

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.skip_first_layer_pe:
            queries = queries + query_pe
        queries = self.norm1(queries + self.self_attn(q=queries, k=queries, v=queries))
        attended = self.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))
        attended = self.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
        return queries, self.norm4(keys + attended)


def _mlp(width: int, out: int) -> nn.Sequential:
    """Three linear layers with GELU between them."""
    hidden = CHANNELS
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )


class LightMaskDecoder(nn.Module):
    """Mask decoder of EfficientSAM: one mask, and three for ambiguous prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(
            depth=2, embedding_dim=CHANNELS, num_heads=8, mlp_dim=2048, activation=nn.GELU
        )
        self.transformer.layers = nn.ModuleList(
            _Block(CHANNELS, 8, 2048, nn.GELU, skip_first_layer_pe=index == 0) for index in range(2)
        )
        self.num_mask_tokens = 4
        self.iou_token = nn.Embedding(1, CHANNELS)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, CHANNELS)
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, 64, kernel_size=2, stride=2),
            nn.GroupNorm(1, 64),
            nn.GELU(),
            nn.ConvTranspose2d(64, 32, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            _mlp(CHANNELS, 32) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = _mlp(CHANNELS, self.num_mask_tokens)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the masks of N prompts.

        Args:
            image: [1, 256, g, g].
            positions: likewise.
            prompts: [N, P, 256].

        Returns:
            Logits [N, 4, 4g, 4g] and predicted IoU [N, 4].
        """
        count, grid = len(prompts), image.shape[-2:]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(count, -1, -1), prompts], dim=1)
        hidden, source = self.transformer(
            image.expand(count, -1, -1, -1), positions.expand(count, -1, -1, -1), tokens
        )
        upscaled = self.upscaling(source.transpose(1, 2).unflatten(2, grid))
        weights = torch.stack(
            [mlp(hidden[:, 1 + k]) for k, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = torch.einsum("nkc,nchw->nkhw", weights, upscaled)
        return masks, self.iou_prediction_head(hidden[:, 0])


class EfficientSam(StretchedSam):
    """EfficientSAM.

    Args:
        width: channels of the encoder's tokens: 192 (Ti) or 384 (S).
        heads: number of its attention heads: 3 or 6.
        side: of the square input.
        depth: number of the encoder's blocks.
    """

    interpolation = "bicubic"

    def __init__(self, width: int, heads: int, side: int = 1024, depth: int = 12) -> None:
        super().__init__()
        self.image_encoder = PlainViTEncoder(width, heads, depth, side)
        self.prompt_encoder = PointEncoder(side, side // 16)
        self.mask_decoder = LightMaskDecoder()

    @property
    def side(self) -> int:
        """Side of the square."""
        return self.image_encoder.img_size

    def encode(self, image: npt.NDArray[np.uint8]) -> list[Tensor]:
        """Encode an image; see `StretchedSam`."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        pixels = pixels.permute(2, 0, 1)[None].float() / 255
        if tuple(pixels.shape[-2:]) != (self.side, self.side):
            pixels = F.interpolate(
                pixels, (self.side, self.side), mode="bilinear", align_corners=False
            )
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        return [self.image_encoder((pixels - mean) / std)]

    def decode(
        self,
        features: list[Tensor],
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks; see `StretchedSam`.

        Raises:
            OpenVocabularyError: for a mask as prompt, or more than six points, of which a box takes
                two.
        """
        if masks is not None:
            raise OpenVocabularyError("EfficientSAM takes points and boxes as prompts, not masks")
        all_points: list[Tensor] = []
        all_labels: list[Tensor] = []
        if points is not None and labels is not None:
            all_points, all_labels = [points], [labels]
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            all_points.append(corners)
            kinds = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=boxes.device)
            all_labels.append(kinds.expand(len(corners), -1))
        coords, kinds = (
            torch.cat(all_points, dim=1),
            torch.cat([k.long() for k in all_labels], dim=1),
        )
        missing = MAX_POINTS - coords.shape[1]
        if missing < 0:
            raise OpenVocabularyError(
                f"EfficientSAM takes {MAX_POINTS} points, a box counting as two, and these are "
                f"{coords.shape[1]}"
            )
        coords = F.pad(coords.float(), (0, 0, 0, missing), value=-1.0)
        kinds = F.pad(kinds, (0, missing), value=INVALID)
        prompts = self.prompt_encoder(coords, kinds)
        low, scores = self.mask_decoder(features[-1], self.prompt_encoder.get_dense_pe(), prompts)
        chosen = slice(1, None) if multimask else slice(0, 1)
        return low[:, chosen], scores[:, chosen]


_MLP = r"mask_decoder\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\."
# Published names -> those of `EfficientSam`.
EFFICIENT_SAM_RULES = (
    Rename(_MLP + r"layers\.0\.0\.(.+)", r"mask_decoder.\1.0.\2"),
    Rename(_MLP + r"layers\.1\.0\.(.+)", r"mask_decoder.\1.2.\2"),
    Rename(_MLP + r"fc\.(.+)", r"mask_decoder.\1.4.\2"),
    Rename(r"(mask_decoder\.transformer\..+\.mlp)\.layers\.0\.0\.(.+)", r"\1.lin1.\2"),
    Rename(r"(mask_decoder\.transformer\..+\.mlp)\.fc\.(.+)", r"\1.lin2.\2"),
    Rename(
        r"mask_decoder\.final_output_upscaling_layers\.0\.0\.(.+)", r"mask_decoder.upscaling.0.\1"
    ),
    Rename(
        r"mask_decoder\.final_output_upscaling_layers\.0\.1\.(.+)", r"mask_decoder.upscaling.1.\1"
    ),
    Rename(
        r"mask_decoder\.final_output_upscaling_layers\.1\.0\.(.+)", r"mask_decoder.upscaling.3.\1"
    ),
)
SIZES: dict[str, dict[str, Any]] = {
    "efficient_sam_ti": {"width": 192, "heads": 3},
    "efficient_sam_s": {"width": 384, "heads": 6},
}
