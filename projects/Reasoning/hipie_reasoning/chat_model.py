"""Chat models that answer by JSON of a given form: any of transformers, or an object like it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from PIL import Image

from hipie.errors import InputError, MissingFileError, MissingPackageError, cause_of, printable
from hipie.logs import make_printable
from hipie.modeling.hub import HubError, check_hub_file
from hipie_reasoning.modeling.language_model import text_options

MAX_NEW_TOKENS = 512


@runtime_checkable
class ChatModel(Protocol):
    """What `Segmenter.reason` needs of a chat model."""

    def complete(self, prompt: str, image: NDArray[Any], schema: Mapping[str, Any]) -> str:
        """Answer a prompt.

        Args:
            prompt: the whole task.
            image: [H, W, 3] uint8 RGB, for models that take images.
            schema: JSON schema that the answer follows.

        Returns:
            A text that should be JSON of this schema; the caller checks it.
        """
        ...


class TransformersChatModel:
    """Chat model of transformers, whose tokens are constrained to the schema by xgrammar.

    Args:
        model: with `generate`.
        processor: tokenizer with a chat template, or the processor of a model that takes images.
        name: for messages.
        max_new_tokens: limit of the answer's length.
    """

    def __init__(
        self, model: Any, processor: Any, name: str = "", max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise InputError(
                f"{printable(name) or 'the language model'} has no chat template; name a model "
                "that is made for chats"
            )
        self.model = model
        self.processor = processor
        self.name = name
        self.max_new_tokens = max_new_tokens

    @classmethod
    def from_source(cls, name: str) -> TransformersChatModel:
        """Load a model from a folder or the hub, from safetensors; it sees images if it can.

        Raises:
            InputError: if there is no such model.
        """
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

        _require_source(name)
        make_printable("transformers")
        try:
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            sees = getattr(processor, "image_processor", None) is not None
            kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            model = kind.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        except Exception as error:  # transformers raises nothing narrower
            raise InputError(
                f"the language model {printable(name)} cannot be loaded: {cause_of(error)}"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.eval().to(device), processor, name)

    @property
    def sees_images(self) -> bool:
        """Whether the model takes images."""
        return getattr(self.processor, "image_processor", None) is not None

    @torch.no_grad()
    def complete(self, prompt: str, image: NDArray[Any], schema: Mapping[str, Any]) -> str:
        """Answer a prompt greedily; see `ChatModel.complete`."""
        content = [{"type": "image"}] if self.sees_images else []
        content.append({"type": "text", "text": prompt})
        # Templates of text models take a text for the content.
        message = {"role": "user", "content": content if self.sees_images else prompt}
        text = self.processor.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True
        )
        images = {"images": [Image.fromarray(image)]} if self.sees_images else {}
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        inputs = self.processor(
            text=[text], **images, **text_options(tokenizer, text), return_tensors="pt"
        ).to(self.model.device)
        pad = tokenizer.pad_token_id
        output = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            logits_processor=[_json_constraint(self.model, tokenizer, schema)],
            pad_token_id=tokenizer.eos_token_id if pad is None else pad,
        )
        start = inputs["input_ids"].shape[1]
        answer: str = tokenizer.decode(output[0, start:], skip_special_tokens=True)
        return answer


def _json_constraint(model: Any, tokenizer: Any, schema: Mapping[str, Any]) -> Any:
    """Logits processor that allows the tokens of JSON of a schema only."""
    try:
        import xgrammar
        from xgrammar.contrib.hf import LogitsProcessor
    except ImportError as error:
        raise MissingPackageError(
            "answers of a language model are constrained by the package xgrammar: pip install "
            "xgrammar"
        ) from error
    embeddings = model.get_output_embeddings()
    information = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=embeddings.weight.shape[0]
    )
    compiler = xgrammar.GrammarCompiler(information)
    return LogitsProcessor(compiler.compile_json_schema(json.dumps(schema), any_whitespace=False))


@lru_cache(maxsize=1)
def load_chat_model(name: str) -> TransformersChatModel:
    """Load a chat model, once for several calls in a row; see `TransformersChatModel`."""
    return TransformersChatModel.from_source(name)


def _require_source(name: str) -> None:
    if os.path.isdir(name):
        return
    if not name or name.startswith((".", "/", "~")):
        raise MissingFileError(f'there is no folder "{name}" with a language model')
    try:
        check_hub_file(name, ("config.json",))
    except HubError as error:
        raise InputError(f"the language model {printable(name)}: {error}") from error
