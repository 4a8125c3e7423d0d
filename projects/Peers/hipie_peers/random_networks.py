"""Small networks with random weights, and their processors, built without any download.

They have the structure of the published ones, so that tests and comparisons of speed need no
weights. Their tokenizers know single bytes only, but for GroundingDINO's, which is BERT's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from hipie.modeling.text_encoder.tokenizer import load_tokenizer

SIDE = 64
# Class names of the two networks with a closed vocabulary: those of drawn pages among them.
LABELS = ("dog", "car", "house", "tree-merged", "grass-merged", "sky-other-merged", "wall", "road")
# Factor of the weights of class heads, so that queries differ in their best class.
CLASS_SCALE = 30.0
_CLASS_WEIGHTS = ("class_predictor.weight", "decoder.class_embed.weight")
_HIDDEN = 32
_SWIN = {
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "image_size": SIDE,
}
_CLIP_TEXT = {
    "vocab_size": 514,
    "hidden_size": _HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": _HIDDEN,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


def build_random(architecture: str) -> tuple[Any, Any]:
    """Build a small network and its processor; the same weights every time.

    Args:
        architecture: type of the network as its configuration names it, such as "clipseg".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, processor = _BUILDERS[architecture]()
        # Bounds away from 0 and random biases, so that outputs differ between inputs.
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.data += 0.02 * torch.randn_like(parameter)
            if name.endswith(_CLASS_WEIGHTS):
                parameter.data *= CLASS_SCALE
    return network.eval(), processor


def byte_letters() -> list[str]:
    """Return the letter of every byte in the tokenizers of GPT-2, CLIP and BART, in their order.

    Bytes that are printable stand for themselves, others for letters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(code) for code in (*printable, *range(256, 256 + len(others)))]


def _clip_tokenizer(length: int) -> Any:
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        model_max_length=length,
    )


def _clipseg() -> tuple[Any, Any]:
    config = transformers.CLIPSegConfig(
        text_config={**_CLIP_TEXT, "max_position_embeddings": 77},
        vision_config={
            "hidden_size": _HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
        },
        projection_dim=_HIDDEN,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    images = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = transformers.CLIPSegProcessor(images, _clip_tokenizer(77))
    return transformers.CLIPSegForImageSegmentation(config), processor


def _sam3() -> tuple[Any, Any]:
    small = {"hidden_size": _HIDDEN, "num_attention_heads": 2, "dropout": 0.0}
    layers = {**small, "num_layers": 2, "intermediate_size": 64}
    grid = SIDE // 8
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": _HIDDEN,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "pretrain_image_size": SIDE,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": _HIDDEN,
            "backbone_feature_sizes": [[grid * k, grid * k] for k in (4, 2, 1)],
        },
        text_config={
            **_CLIP_TEXT,
            "model_type": "clip_text_model",
            "max_position_embeddings": 32,
        },
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 10},
        mask_decoder_config=small,
    )
    images = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Sam3Model(config), transformers.Sam3Processor(images, _clip_tokenizer(32))


def _grounding_dino() -> tuple[Any, Any]:
    tokenizer = load_tokenizer("minilm")
    config = transformers.GroundingDinoConfig(
        backbone_config={"model_type": "swin", **_SWIN, "out_indices": [2, 3, 4]},
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": _HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        d_model=_HIDDEN,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=64,
    )
    images = transformers.GroundingDinoImageProcessor(
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    )
    processor = transformers.GroundingDinoProcessor(images, tokenizer)
    return transformers.GroundingDinoForObjectDetection(config), processor


def _mask_former_sizes() -> dict[str, Any]:
    return {
        "backbone_config": {
            "model_type": "swin",
            **_SWIN,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: index for index, name in enumerate(LABELS)},
        "hidden_dim": _HIDDEN,
        "encoder_feedforward_dim": 64,
        "dim_feedforward": 64,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "num_attention_heads": 2,
        "num_queries": 12,
    }


def _mask2former() -> tuple[Any, Any]:
    config = transformers.Mask2FormerConfig(
        **_mask_former_sizes(), feature_size=_HIDDEN, mask_feature_size=_HIDDEN
    )
    processor = transformers.Mask2FormerImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def _oneformer() -> tuple[Any, Any]:
    config = transformers.OneFormerConfig(
        **_mask_former_sizes(),
        conv_dim=_HIDDEN,
        mask_dim=_HIDDEN,
        text_encoder_width=_HIDDEN,
        text_encoder_vocab_size=514,
        text_encoder_num_layers=1,
    )
    images = transformers.OneFormerImageProcessor(
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}, num_labels=len(LABELS)
    )
    processor = transformers.OneFormerProcessor(images, _clip_tokenizer(77))
    return transformers.OneFormerForUniversalSegmentation(config), processor


def _florence2() -> tuple[Any, Any]:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: index for index, token in enumerate([*special, *byte_letters(), "<mask>"])}
    tokenizer = transformers.BartTokenizer(
        vocab=vocab, merges=[], extra_special_tokens={"image_token": "<image>"}
    )
    tokenizer.add_tokens([f"<loc_{number}>" for number in range(1000)])
    grid = SIDE // 32
    config = transformers.Florence2Config(
        vision_config={
            "embed_dim": [8, 16, 32, 64],
            "num_heads": [1, 2, 4, 8],
            "num_groups": [1, 2, 4, 8],
            "depths": [1, 1, 1, 1],
            "window_size": 4,
            "projection_dim": _HIDDEN,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": _HIDDEN,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
        image_token_id=tokenizer.image_token_id,
    )
    images: Any = transformers.CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False
    )
    images.image_seq_length = grid * grid + 1
    processor = transformers.Florence2Processor(
        images, tokenizer, post_processor_config={"polygons": {}}
    )
    return transformers.Florence2ForConditionalGeneration(config), processor


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "clipseg": _clipseg,
    "sam3": _sam3,
    "grounding-dino": _grounding_dino,
    "mask2former": _mask2former,
    "oneformer": _oneformer,
    "florence2": _florence2,
}
