"""Tiny models of transformers with random weights, one a family of deformable attention."""

from __future__ import annotations

import torch

BATCH, HEIGHT, WIDTH = 2, 64, 96


def _resnet():
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _swin():
    from transformers import SwinConfig

    return SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _bert():
    from transformers import BertConfig

    return BertConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )


def deformable_detr():
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    config = DeformableDetrConfig(
        backbone_config=_resnet(),
        num_queries=6,
        num_feature_levels=4,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    )
    return DeformableDetrForObjectDetection(config)


def mask2former():
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
    )
    return Mask2FormerForUniversalSegmentation(config)


def oneformer():
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    config = OneFormerConfig(
        backbone_config=_swin(),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=2,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        task_seq_len=8,
        text_encoder_width=16,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=50,
        text_encoder_context_length=8,
    )
    return OneFormerForUniversalSegmentation(config)


def _grounding(config_class, model_class):
    config = config_class(
        backbone_config=_resnet(),
        text_config=_bert(),
        num_queries=6,
        num_feature_levels=4,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_text_len=16,
    )
    return model_class(config)


def grounding_dino():
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    return _grounding(GroundingDinoConfig, GroundingDinoForObjectDetection)


def mm_grounding_dino():
    from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

    return _grounding(MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)


def _rt_detr(config_class, model_class, **settings):
    from transformers import RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = config_class(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        feat_strides=[8, 16, 32],
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        **settings,
    )
    return model_class(config)


def rt_detr():
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return _rt_detr(RTDetrConfig, RTDetrForObjectDetection)


def rt_detr_v2():
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    return _rt_detr(RTDetrV2Config, RTDetrV2ForObjectDetection)


def rt_detr_v2_discrete():
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    return _rt_detr(RTDetrV2Config, RTDetrV2ForObjectDetection, decoder_method="discrete")


def _d_fine(**settings):
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        hidden_sizes=[8, 8, 16, 16],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = DFineConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        feat_strides=[8, 16, 32],
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        **settings,
    )
    return DFineForObjectDetection(config)


def d_fine():
    return _d_fine()


def d_fine_points_per_level():
    return _d_fine(decoder_n_points=[3, 6, 3])


def lw_detr():
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig

    backbone = LwDetrViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=64,
        num_windows=4,
        window_block_indices=[0],
        out_indices=[1, 2],
    )
    config = LwDetrConfig(
        backbone_config=backbone,
        projector_scale_factors=[2.0, 0.5],
        c2f_num_blocks=1,
        d_model=16,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_n_points=3,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=6,
        group_detr=2,
    )
    return LwDetrForObjectDetection(config)


def rf_detr():
    from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection

    backbone = RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        patch_size=8,
        num_windows=2,
        out_indices=[1, 2],
    )
    config = RfDetrConfig(
        backbone_config=backbone,
        c2f_num_blocks=1,
        d_model=16,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_n_points=3,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=6,
        group_detr=2,
        dropout=0.0,
    )
    return RfDetrForObjectDetection(config)


def omdet_turbo():
    from transformers import CLIPTextConfig, OmDetTurboConfig, OmDetTurboForObjectDetection

    text = CLIPTextConfig(
        vocab_size=200,
        hidden_size=24,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=198,
        eos_token_id=199,
    )
    config = OmDetTurboConfig(
        text_config=text,
        backbone_config=_resnet(),
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=24,
        text_projection_out_dim=24,
        task_encoder_hidden_dim=16,
        class_embed_dim=24,
        num_queries=6,
        vision_features_channels=[16, 16, 16],
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_attention_heads=2,
        encoder_dim_feedforward=16,
        decoder_hidden_dim=16,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=16,
        decoder_num_points=3,
    )
    return OmDetTurboForObjectDetection(config)


FAMILIES = {
    "deformable_detr": deformable_detr,
    "mask2former": mask2former,
    "oneformer": oneformer,
    "grounding_dino": grounding_dino,
    "mm_grounding_dino": mm_grounding_dino,
    "rt_detr": rt_detr,
    "rt_detr_v2": rt_detr_v2,
    "rt_detr_v2_discrete": rt_detr_v2_discrete,
    "d_fine": d_fine,
    "d_fine_points_per_level": d_fine_points_per_level,
    "lw_detr": lw_detr,
    "rf_detr": rf_detr,
    "omdet_turbo": omdet_turbo,
}


def build(name):
    """A model in evaluation mode with weights spread by a fixed seed."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def image(dtype=torch.float32):
    """An image [B, 3, H, W] of noise."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn((BATCH, 3, HEIGHT, WIDTH), generator=generator).to(dtype)


def inputs(name, dtype=torch.float32):
    """Inputs of a model."""
    found = {"pixel_values": image(dtype)}
    if name.endswith("grounding_dino"):
        ids = torch.tensor([[101, 7, 9, 102]]).expand(BATCH, -1)
        found |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "oneformer":
        generator = torch.Generator().manual_seed(2)
        found["task_inputs"] = torch.randint(0, 50, (BATCH, 8), generator=generator)
    if name == "omdet_turbo":
        classes, tasks = torch.tensor([[198, 7, 199], [198, 9, 199]]), torch.tensor([[198, 5, 199]])
        found |= {
            "classes_input_ids": classes.repeat(BATCH, 1),
            "classes_attention_mask": torch.ones_like(classes.repeat(BATCH, 1)),
            "tasks_input_ids": tasks.repeat(BATCH, 1),
            "tasks_attention_mask": torch.ones_like(tasks.repeat(BATCH, 1)),
            "classes_structure": torch.full((BATCH,), 2),
        }
    return found


def run(model, name):
    """Outputs of a model, with zero in place of what is not finite (masked logits)."""
    if name == "omdet_turbo":  # its caches would keep the graph of an earlier run
        model.language_cache_class.cache.clear()
        model.language_cache_prompt.cache.clear()
    output = model(**inputs(name, next(model.parameters()).dtype), return_dict=True)
    kinds = (
        *("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits"),
        *("decoder_class_logits", "decoder_coord_logits"),
    )
    found = [output[kind] for kind in kinds if kind in output]
    return [torch.where(tensor.isfinite(), tensor, 0.0) for tensor in found]


def results(model, name):
    """Outputs of a model, and the gradients of all its parameters, of one forward and backward."""
    model.zero_grad()
    outputs = run(model, name)
    generator = torch.Generator().manual_seed(3)
    loss = sum(
        (tensor * torch.rand(tensor.shape, generator=generator)).mean() for tensor in outputs
    )
    loss.backward()
    gradients = {
        key: parameter.grad
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return [tensor.detach() for tensor in outputs], gradients
