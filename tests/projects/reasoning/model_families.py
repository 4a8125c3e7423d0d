"""Small multimodal language models of the families of transformers, with their own processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import transformers
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    # Large enough that the states of two tokens differ well.
    "initializer_range": 0.2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}


def _template(message: str, *, image: str, start: str = "", prompt: str = "") -> str:
    """Chat template, where `message` has ROLE and CONTENT."""
    content = (
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    )
    body = message.replace("CONTENT", content)
    return (
        f"{start}{{% for message in messages %}}{body}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


def bytes_tokenizer(special: Sequence[str], end: str, **options: Any) -> Any:
    """Tokenizer of Qwen without merges: a token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    options = {"pad_token": "<|endoftext|>", **options}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocab, merges=[], eos_token=end, **options)
    tokenizer.add_tokens(list(special), special_tokens=True)
    return tokenizer


def begin_with_bos(tokenizer: Any) -> None:
    """As tokenizers of Llama and Gemma do, whether or not a template has it too."""
    begin = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=begin
    )


def _text_ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _qwen(family: str) -> tuple[Any, Any]:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = bytes_tokenizer(("<|im_start|>", *marks), "<|im_end|>")
    turn = "<|im_start|>{{ message['role'] }}\nCONTENT<|im_end|>\n"
    template = _template(
        turn,
        start="<|im_start|>system\nYou help.<|im_end|>\n",
        image="<|vision_start|><|image_pad|><|vision_end|>",
        prompt="<|im_start|>assistant\n",
    )
    patch = 16 if family == "Qwen3VL" else 14
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (6 * patch) ** 2}
    images = transformers.Qwen2VLImageProcessor(patch_size=patch, size=size)
    videos = "Qwen3VL" if family == "Qwen3VL" else "Qwen2VL"
    processor = getattr(transformers, f"{family}Processor")(
        images,
        tokenizer,
        getattr(transformers, f"{videos}VideoProcessor")(patch_size=patch),
        chat_template=template,
    )
    vision = {
        "Qwen2VL": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        "Qwen2_5_VL": {
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "Qwen3VL": {
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    }[family]
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    extra = {"head_dim": 16} if family == "Qwen3VL" else {}
    token = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, f"{family}Config")(
        text_config={**SHAPE, **_text_ids(tokenizer), **extra, "rope_parameters": rope},
        vision_config={**vision, "depth": 2, "num_heads": 2, "patch_size": patch},
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


def _idefics(family: str) -> tuple[Any, Any]:
    tiles = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    marks = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
    tokenizer = bytes_tokenizer((*marks, *tiles), "<end_of_utterance>", bos_token="<|im_start|>")
    if family == "Idefics3":
        begin_with_bos(tokenizer)
    template = _template(
        "{{ message['role'] | capitalize }}: CONTENT<end_of_utterance>\n",
        start="<|im_start|>",
        image="<image>",
        prompt="Assistant:",
    )
    images = getattr(transformers, f"{family}ImageProcessor")(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    extra = [transformers.SmolVLMVideoProcessor()] if family == "SmolVLM" else []
    processor = getattr(transformers, f"{family}Processor")(
        images, tokenizer, *extra, image_seq_len=4, chat_template=template
    )
    config = getattr(transformers, f"{family}Config")(
        text_config={"model_type": "llama", **SHAPE, **_text_ids(tokenizer)},
        vision_config={**VISION, "patch_size": 7, "image_size": 28},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


def _gemma3() -> tuple[Any, Any]:
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    words = (*special, "\u2581", *(f"<0x{byte:02X}>" for byte in range(256)))
    marks = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image>")
    tokenizer = transformers.GemmaTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=[],
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image>",
        },
    )
    tokenizer.add_tokens(list(marks), special_tokens=True)
    begin_with_bos(tokenizer)
    template = _template(
        "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "CONTENT<end_of_turn>\n",
        start="{{ bos_token }}",
        image="<start_of_image>",
        prompt="<start_of_turn>model\n",
    )
    images = transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=template
    )
    token = tokenizer.convert_tokens_to_ids
    sizes = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.Gemma3Config(
        text_config={**SHAPE, **_text_ids(tokenizer), **sizes, **layers},
        vision_config={**VISION, "image_size": 56, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image>"),
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    # It is 0 by default, and images would have no effect.
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, token("<end_of_turn>")]
    return model, processor


def _llava(family: str) -> tuple[Any, Any]:
    """Vicuna's turns, as in LLaVA 1.5: a question has no mark at its end, and an answer none."""
    tokenizer = bytes_tokenizer(("<image>",), "</s>", bos_token="<s>")
    begin_with_bos(tokenizer)
    turn = "{{ message['role'] | replace('assistant', 'ASSISTANT') }}: CONTENT "
    template = _template(turn, image="<image>\n", prompt="ASSISTANT:")
    images = getattr(
        transformers, {"Llava": "CLIP", "LlavaNext": "LlavaNext"}[family] + "ImageProcessor"
    )
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
    }
    pinpoints = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
    grid = pinpoints if family == "LlavaNext" else {}
    processor = getattr(transformers, f"{family}Processor")(
        images(**sizes, **grid),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    config = getattr(transformers, f"{family}Config")(
        text_config={"model_type": "llama", **SHAPE, **_text_ids(tokenizer)},
        vision_config={
            "model_type": "clip_vision_model", **VISION, "image_size": 28, "projection_dim": 32,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        **grid,
    )  # fmt: skip
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": lambda: _llava("Llava"),
    "llava_next": lambda: _llava("LlavaNext"),
    "qwen2_vl": lambda: _qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL"),
    "idefics3": lambda: _idefics("Idefics3"),
    "smolvlm": lambda: _idefics("SmolVLM"),
    "gemma3": _gemma3,
}
