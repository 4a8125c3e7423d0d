"""SAM 2's masks of an image, through transformers.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025. The memory of its videos is
not used, and its weights are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hipie.checkpoint.converters.conversion import Rename
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.stretched import StretchedSam

# Sizes of the image encoder (Hiera).
SIZES: dict[str, dict[str, Any]] = {
    "sam2_hiera_tiny": {"width": 96, "heads": 1, "depths": (1, 2, 7, 2), "attend": (5, 7, 9)},
    "sam2_hiera_small": {"width": 96, "heads": 1, "depths": (1, 2, 11, 2), "attend": (7, 10, 13)},
    "sam2_hiera_base_plus": {
        "width": 112,
        "heads": 2,
        "depths": (2, 3, 16, 3),
        "attend": (12, 16, 20),
        "grid": 14,
    },
    "sam2_hiera_large": {
        "width": 144,
        "heads": 2,
        "depths": (2, 6, 36, 4),
        "attend": (23, 33, 43),
        "windows": (8, 4, 16, 8),
    },
}


class Sam2(StretchedSam):
    """SAM 2 for images.

    Args:
        network: `transformers.Sam2Model`.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        from transformers import Sam2ImageProcessor

        self.network = network
        self.processor = Sam2ImageProcessor(size={"height": self.side, "width": self.side})

    @property
    def side(self) -> int:
        """Side of the square."""
        return int(self.network.prompt_encoder.input_image_size)

    @property
    def prompt_encoder(self) -> Any:
        """Encoder of prompts, with `mask_input_size`."""
        return self.network.prompt_encoder

    def encode(self, image: npt.NDArray[np.uint8]) -> list[Tensor]:
        """Encode an image; see `StretchedSam`."""
        inputs = self.processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)
        return list(self.network.get_image_embeddings(pixels))

    def decode(
        self,
        features: list[Tensor],
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks; see `StretchedSam`. Every prompt is an element of the batch."""
        prompts = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        count = len(prompts[0])
        outputs = self.network(
            image_embeddings=[level.expand(count, -1, -1, -1) for level in features],
            input_points=None if points is None else points[:, None].float(),
            input_labels=None if labels is None else labels[:, None],
            input_boxes=None if boxes is None else boxes[:, None].float(),
            input_masks=masks,
            multimask_output=multimask,
        )
        return outputs.pred_masks[:, 0], outputs.iou_scores[:, 0]


def build_sam2(size: str = "", side: int = 1024, **options: Any) -> Sam2:
    """Build SAM 2 with random weights.

    Args:
        size: a name of `SIZES`; "" for the one that `options` describe.
        side: of the square input.
        options: see `SIZES`, and `channels` of the neck and decoder.

    Raises:
        OpenVocabularyError: if the installed transformers has no SAM 2.
    """
    try:
        from transformers import Sam2Config, Sam2Model
    except ImportError as error:
        raise OpenVocabularyError(
            "SAM 2 needs a newer transformers: pip install -U transformers"
        ) from error
    sizes = {**SIZES.get(size, {}), **options}
    width, channels = sizes["width"], sizes.get("channels", 256)
    widths = [width * 2**stage for stage in range(4)]
    grid = sizes.get("grid", 7)
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": width,
                "num_attention_heads": sizes["heads"],
                "image_size": [side, side],
                "window_positional_embedding_background_size": [grid, grid],
                "blocks_per_stage": list(sizes["depths"]),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [sizes["heads"] * 2**stage for stage in range(4)],
                "window_size_per_stage": list(sizes.get("windows", (8, 4, 14, 7))),
                "global_attention_blocks": list(sizes["attend"]),
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side // k, side // k] for k in (4, 8, 16)],
            "fpn_hidden_size": channels,
        },
        prompt_encoder_config={"hidden_size": channels, "image_size": side},
        mask_decoder_config={
            "hidden_size": channels,
            "iou_head_hidden_dim": channels,
            "mlp_dim": 8 * channels,
        },
    )
    return Sam2(Sam2Model(config).eval())


_HEADS = (
    r"sam_mask_decoder\.(output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)"
)
_NETWORK = "network."
# Names of the authors' files -> those of `Sam2`. What only videos need is left out.
SAM2_RULES = (
    Rename(
        r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\..+",
        None,
    ),
    Rename(r"maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial", None),
    Rename(r"no_mem_embed", _NETWORK + "no_memory_embedding"),
    Rename(
        r"image_encoder\.trunk\.patch_embed\.proj\.(.+)",
        _NETWORK + r"vision_encoder.backbone.patch_embed.projection.\1",
    ),
    Rename(
        r"image_encoder\.trunk\.blocks\.(\d+)\.norm(\d)\.(.+)",
        _NETWORK + r"vision_encoder.backbone.blocks.\1.layer_norm\2.\3",
    ),
    Rename(
        r"image_encoder\.trunk\.blocks\.(\d+)\.mlp\.layers\.0\.(.+)",
        _NETWORK + r"vision_encoder.backbone.blocks.\1.mlp.proj_in.\2",
    ),
    Rename(
        r"image_encoder\.trunk\.blocks\.(\d+)\.mlp\.layers\.1\.(.+)",
        _NETWORK + r"vision_encoder.backbone.blocks.\1.mlp.proj_out.\2",
    ),
    Rename(r"image_encoder\.trunk\.(.+)", _NETWORK + r"vision_encoder.backbone.\1"),
    Rename(
        r"image_encoder\.neck\.convs\.(\d+)\.conv\.(.+)",
        _NETWORK + r"vision_encoder.neck.convs.\1.\2",
    ),
    Rename(
        r"sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        _NETWORK + "shared_image_embedding.positional_embedding",
    ),
    *(
        Rename(
            rf"sam_prompt_encoder\.mask_downscaling\.{index}\.(.+)",
            _NETWORK + rf"prompt_encoder.mask_embed.{name}.\1",
        )
        for index, name in (
            (0, "conv1"),
            (1, "layer_norm1"),
            (3, "conv2"),
            (4, "layer_norm2"),
            (6, "conv3"),
        )
    ),
    Rename(r"sam_prompt_encoder\.(.+)", _NETWORK + r"prompt_encoder.\1"),
    Rename(_HEADS + r"\.layers\.0\.(.+)", _NETWORK + r"mask_decoder.\1.proj_in.\2"),
    Rename(_HEADS + r"\.layers\.1\.(.+)", _NETWORK + r"mask_decoder.\1.layers.0.\2"),
    Rename(_HEADS + r"\.layers\.2\.(.+)", _NETWORK + r"mask_decoder.\1.proj_out.\2"),
    Rename(
        r"sam_mask_decoder\.output_upscaling\.0\.(.+)", _NETWORK + r"mask_decoder.upscale_conv1.\1"
    ),
    Rename(
        r"sam_mask_decoder\.output_upscaling\.1\.(.+)",
        _NETWORK + r"mask_decoder.upscale_layer_norm.\1",
    ),
    Rename(
        r"sam_mask_decoder\.output_upscaling\.3\.(.+)", _NETWORK + r"mask_decoder.upscale_conv2.\1"
    ),
    Rename(
        r"sam_mask_decoder\.transformer\.norm_final_attn\.(.+)",
        _NETWORK + r"mask_decoder.transformer.layer_norm_final_attn.\1",
    ),
    Rename(
        r"sam_mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.(.+)",
        _NETWORK + r"mask_decoder.transformer.layers.\1.layer_norm\2.\3",
    ),
    Rename(
        r"sam_mask_decoder\.transformer\.layers\.(\d+)\.mlp\.layers\.0\.(.+)",
        _NETWORK + r"mask_decoder.transformer.layers.\1.mlp.proj_in.\2",
    ),
    Rename(
        r"sam_mask_decoder\.transformer\.layers\.(\d+)\.mlp\.layers\.1\.(.+)",
        _NETWORK + r"mask_decoder.transformer.layers.\1.mlp.proj_out.\2",
    ),
    Rename(
        r"sam_mask_decoder\.transformer\.(.+)\.out_proj\.(.+)",
        _NETWORK + r"mask_decoder.transformer.\1.o_proj.\2",
    ),
    Rename(r"sam_mask_decoder\.(.+)", _NETWORK + r"mask_decoder.\1"),
)
# Names of transformers' files, of images or videos.
TRANSFORMERS_SAM2_RULES = (
    Rename(
        r"(memory_attention|memory_encoder|mask_downsample|object_pointer_proj"
        r"|temporal_positional_encoding_projection_layer)\..+",
        None,
    ),
    Rename(
        r"memory_temporal_positional_encoding|no_memory_positional_encoding|no_object_pointer"
        r"|occlusion_spatial_embedding_parameter",
        None,
    ),
    Rename(r"prompt_encoder\.shared_embedding\.positional_embedding", None),
    Rename(r"(.+)", _NETWORK + r"\1"),
)
_POINTS = "sam_prompt_encoder.point_embeddings."
_SHARED = "network.shared_image_embedding.positional_embedding"


def join_shared(state: dict[str, Tensor], converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the tensors that transformers stores in another form than the authors.

    Args:
        state: tensors of a file.
        converted: the same, renamed.

    Returns:
        With one table of the embeddings of points, and position embeddings under both names.
    """
    result = {
        name: value
        for name, value in converted.items()
        if not name.startswith("network.prompt_encoder.point_embeddings.")
    }
    points = [state[f"{_POINTS}{k}.weight"] for k in range(4) if f"{_POINTS}{k}.weight" in state]
    if points:
        result["network.prompt_encoder.point_embed.weight"] = torch.cat(points)
    if _SHARED in result:
        result["network.prompt_encoder.shared_embedding.positional_embedding"] = result[_SHARED]
    return result
