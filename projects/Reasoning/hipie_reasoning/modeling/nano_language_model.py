"""Small LLaVA without trained layers, for trainings on a CPU and for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing

from hipie.modeling.text_encoder.tokenizer import minilm_folder

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

NANO, TINY = "nano", "tiny"
IMAGE_TOKEN = "<image>"
IMAGE_SIDE, PATCH_SIZE = 64, 16
MAX_POSITIONS = 512
# Standard deviation of random weights and of all word embeddings: with the usual 0.02 the product
# of a normed state with a frozen embedding is too small for a confident prediction.
NANO_STD = 0.05
# Size of MiniLM's token embeddings, and their name in its file.
MINILM_WIDTH = 384
MINILM_EMBEDDINGS = "embeddings.word_embeddings.weight"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def build_small_language_model(
    name: str,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build a LLaVA with two layers and a processor with the tokenizer of BERT.

    Args:
        name: "nano", 384 wide with the word embeddings of MiniLM, which are frozen and tied to the
            output layer, or "tiny", 32 wide. All other weights are random, by the global generator
            of torch.
    """
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _build_tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessor(
            size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
            crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        ),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
    width, vision_width, heads = (MINILM_WIDTH, 96, 6) if name == NANO else (32, 32, 2)
    std = NANO_STD if name == NANO else 0.02
    initialization: dict[str, Any] = {"initializer_range": std}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision_width,
            intermediate_size=2 * vision_width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIDE,
            patch_size=PATCH_SIZE,
            projection_dim=vision_width,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=MAX_POSITIONS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=std,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        tie_word_embeddings=name == NANO,
        **initialization,
    )
    model = LlavaForConditionalGeneration(config)
    if name == NANO:
        _copy_minilm_embeddings(model)
    return model, processor


def _build_tokenizer() -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(minilm_folder()), trust_remote_code=False)
    # Settings of MiniLM's own use.
    for name in ("max_length", "padding", "truncation", "stride"):
        tokenizer.init_kwargs.pop(name, None)
    # The chat template has all markers.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


def _copy_minilm_embeddings(model: LlavaForConditionalGeneration) -> None:
    with safe_open(str(minilm_folder() / "model.safetensors"), "pt") as file:
        words = file.get_tensor(MINILM_EMBEDDINGS).float()
    module: Any = model.get_input_embeddings()
    embeddings = module.weight
    with torch.no_grad():
        embeddings[: len(words)] = words / words.std() * embeddings.std()
