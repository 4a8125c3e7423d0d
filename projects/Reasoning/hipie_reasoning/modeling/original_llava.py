"""LLaVA in the layout of its authors, which LISA's and GSVA's published folders have too.

Such a folder has a `config.json` with the keys `mm_*`, a tokenizer, and the weights of language
model and projector; the image encoder, a CLIP, is named in the configuration.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from hipie.checkpoint.read import INDEX_SUFFIX, read_state
from hipie.errors import InputError, cause_of, printable
from hipie.modeling.hub import HubError, check_hub_file
from hipie_reasoning.checkpoint_converters import LANGUAGE_MODEL, convert_llava

MARK = "mm_vision_tower"
# Files of weights, the likelier first.
WEIGHTS = tuple(
    f"{name}{end}"
    for end in (INDEX_SUFFIX, "")
    for name in ("model.safetensors", "pytorch_model.bin")
)
TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
)
# Vicuna's form of a dialogue, in which LLaVA 1 was trained, with the image between two marks.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
TEMPLATE = (
    SYSTEM + " {% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'user' %} {% else %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def is_original_llava(folder: str) -> bool:
    """Whether a folder has a configuration of LLaVA's authors."""
    try:
        return MARK in json.loads(Path(folder, "config.json").read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def load_original_llava(folder: str) -> tuple[Any, Any]:
    """Load such a folder as a LLaVA of transformers, with a processor.

    The token of an image is `<unk>`, which texts do not have, so that the table of embeddings keeps
    its size; what pads is the end token.

    Args:
        folder: with `config.json`, a tokenizer and weights.

    Returns:
        `LlavaForConditionalGeneration` in float32, and `LlavaProcessor`.

    Raises:
        InputError: naming what is missing or does not fit.
        CheckpointError: if the weights cannot be read.
    """
    from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

    content = json.loads(Path(folder, "config.json").read_bytes())
    vision, images = _load_vision_tower(folder, str(content[MARK]))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises nothing narrower
        raise InputError(f"{folder}: its tokenizer cannot be read: {cause_of(error)}") from error
    if tokenizer.unk_token is None or tokenizer.eos_token is None:
        raise InputError(f"{folder}: its tokenizer lacks <unk> or the end token")
    tokenizer.pad_token = tokenizer.eos_token
    state = _read_weights(folder)
    config = _build_config(content, tokenizer, vision.config, state)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("model.vision_tower.")]
    if missing or unexpected:
        raise InputError(
            f'{folder}: its weights are not those of its configuration: "'
            f'{printable([*missing, *unexpected][0])}"'
        )
    has_marks = bool(content.get("mm_use_im_start_end", True))
    image = tokenizer.unk_token
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.config.patch_size,
        vision_feature_select_strategy="default",
        image_token=image,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace(
            "IMAGE", f"<im_start>{image}<im_end>" if has_marks else image
        ),
    )
    return model, processor


def _load_vision_tower(folder: str, name: str) -> tuple[Any, Any]:
    """Load the CLIP that a configuration names, by a path beside the folder or on the hub."""
    from transformers import CLIPImageProcessor, CLIPVisionModel

    beside = os.path.join(folder, name)
    source = beside if os.path.isdir(beside) else name
    if not os.path.isdir(source):
        try:
            check_hub_file(source, ("config.json",))
        except HubError as error:
            raise InputError(f"{folder}: {MARK} {printable(name)}: {error}") from error
    try:
        vision = CLIPVisionModel.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        images = CLIPImageProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises nothing narrower
        raise InputError(
            f"{folder}: the CLIP {printable(name)} cannot be read: {cause_of(error)}"
        ) from error
    return vision, images


def _read_weights(folder: str) -> dict[str, torch.Tensor]:
    file = next((name for name in WEIGHTS if Path(folder, name).is_file()), None)
    if file is None:
        raise InputError(f"{folder}: there is no file of weights, such as {', '.join(WEIGHTS)}")
    state, _ = convert_llava(read_state(Path(folder, file))["model"])
    return {
        name.removeprefix(LANGUAGE_MODEL): value
        for name, value in state.items()
        if name.startswith(LANGUAGE_MODEL)
    }


def _build_config(content: dict[str, Any], tokenizer: Any, vision: Any, state: Any) -> Any:
    from transformers import LlamaConfig, LlavaConfig

    embeddings = state.get("model.language_model.embed_tokens.weight")
    if embeddings is None or len(embeddings) < len(tokenizer):
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, and the weights fewer")
    options = {key: content[key] for key in TEXT_KEYS if key in content}
    linear = content.get("mm_projector_type", "linear") == "linear"
    return LlavaConfig(
        text_config=LlamaConfig(**options, vocab_size=len(embeddings)),
        vision_config=vision,
        image_token_index=tokenizer.unk_token_id,
        projector_hidden_act="linear" if linear else "gelu",
        vision_feature_layer=content.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
