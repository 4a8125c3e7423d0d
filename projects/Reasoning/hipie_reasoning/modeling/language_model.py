"""Multimodal language model whose answers mark masks with [SEG] and absent objects with [REJ]."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hipie.data.image_io import ImageError
from hipie.errors import InputError, MissingFileError, MissingPackageError, cause_of, printable
from hipie.logs import get_logger, make_printable
from hipie.modeling.hub import HubError, check_hub_file
from hipie_reasoning.modeling.nano_language_model import NANO, TINY, build_small_language_model
from hipie_reasoning.modeling.original_llava import is_original_llava, load_original_llava

SEG_TOKEN, REJ_TOKEN = "[SEG]", "[REJ]"  # nosec B105
SEG_STATES = ("predicting", "token")
IGNORED_LABEL = -100
KEY = "MODEL.REASONING.LANGUAGE_MODEL"
logger = get_logger(__name__)


@dataclass(frozen=True)
class Dialogues:
    """Tokens of B questions about images, with their answers.

    Attributes:
        inputs: what the processor returns for the model; `input_ids` is [B, T].
        labels: [B, T], the token ids of answers, `IGNORED_LABEL` elsewhere.
    """

    inputs: dict[str, Tensor]
    labels: Tensor


class MultimodalLanguageModel(nn.Module):
    """Image-text-to-text model of transformers, its processor, and the tokens [SEG] and [REJ].

    The two tokens are added to the tokenizer and the embeddings where they are missing.

    Args:
        model: with a language model head, of `AutoModelForImageTextToText`.
        processor: its processor, with an image processor, a tokenizer and a chat template.
        name: where it comes from, for messages.
        max_tokens: limit of the length of a dialogue, image tokens included.
        seg_state: see `MODEL.REASONING.SEG_STATE`.

    Raises:
        InputError: naming what the processor lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str = "",
        max_tokens: int = 512,
        seg_state: str = "predicting",
    ) -> None:
        super().__init__()
        _require_processor(processor, name)
        if seg_state not in SEG_STATES:
            raise InputError(
                f'MODEL.REASONING.SEG_STATE is "{printable(seg_state)}"; it has to be one of '
                f"{', '.join(SEG_STATES)}"
            )
        self.model: Any = model
        self.processor = processor
        self.name = name
        self.seg_state = seg_state
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.max_tokens = min(max_tokens, _max_positions(model) or max_tokens)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._add_tokens()
        self.seg_id, self.rej_id = self.tokenizer.convert_tokens_to_ids([SEG_TOKEN, REJ_TOKEN])

    @classmethod
    def from_source(cls, name: str, **options: Any) -> MultimodalLanguageModel:
        """Load a model by name, or build a small one; code of a model's folder is not executed.

        Args:
            name: see `MODEL.REASONING.LANGUAGE_MODEL`.
            options: `max_tokens` and `seg_state`.

        Raises:
            InputError: if there is no such model, or it takes no images.
        """
        if name in (NANO, TINY):
            model, processor = build_small_language_model(name)
        else:
            model, processor = load_pretrained(name)
        return cls(model, processor, name=name, **options)

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the processor."""
        return self.processor.tokenizer

    @property
    def width(self) -> int:
        """Channels of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    # Text and tokens --------------------------------------------------------------------------

    def format_prompt(self, question: str) -> str:
        """Return the text of a question about one image, up to where the answer begins."""
        text: str = self.processor.apply_chat_template(
            [_message("user", question, image=True)], tokenize=False, add_generation_prompt=True
        )
        return text

    def format_dialogue(self, question: str, answer: str) -> str:
        """Return the text of a question about one image and its answer."""
        prompt = self.format_prompt(question)
        messages = [_message("user", question, image=True), _message("assistant", answer)]
        text: str = self.processor.apply_chat_template(messages, tokenize=False)
        if not text.startswith(prompt):
            # Templates that leave something out of earlier turns, such as thoughts.
            text = f"{prompt}{answer}"
        if not text.rstrip().endswith(self._end_tokens()):
            # Templates without a mark at the end of an answer, such as that of LLaVA 1.5.
            text = f"{text.rstrip()}{self.tokenizer.eos_token}"
        return text

    def tokenize(self, images: Sequence[NDArray[Any]], texts: Sequence[str]) -> dict[str, Tensor]:
        """Run the processor on images [H, W, 3] uint8 RGB and a text about each.

        Raises:
            InputError: if a text has more tokens than allowed.
            ImageError: if the processor refuses an image.
        """
        try:
            batch = self.processor(
                text=list(texts),
                # The order of an array's axes would be guessed, wrongly if it has 3 rows.
                images=[[Image.fromarray(image)] for image in images],
                padding=True,
                return_tensors="pt",
                **text_options(self.tokenizer, texts[0]),
            )
        except ValueError as error:
            sizes = sorted({f"{image.shape[1]} x {image.shape[0]}" for image in images})
            raise ImageError(
                f"the processor of {self.name or 'the language model'} cannot take images of "
                f"{', '.join(sizes)} pixels with their texts: {cause_of(error)}"
            ) from error
        inputs = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        lengths = inputs["attention_mask"].sum(1)
        if int(lengths.max()) > self.max_tokens:
            longest = int(lengths.argmax())
            raise InputError(
                f"an image and the text that begins with {texts[longest][-200:][:60]!r} are "
                f"{int(lengths[longest])} tokens, and {self.name or 'the language model'} reads "
                f"{self.max_tokens} (MODEL.REASONING.MAX_TOKENS); ask a shorter question"
            )
        return {key: value.to(self.device) for key, value in inputs.items()}

    def encode_dialogues(
        self, images: Sequence[NDArray[Any]], questions: Sequence[str], answers: Sequence[str]
    ) -> Dialogues:
        """Tokenize B questions with their answers, padded at the right.

        Args:
            images: B arrays [H, W, 3] uint8 RGB.
            questions: B texts.
            answers: B texts, with [SEG] and [REJ].
        """
        self.tokenizer.padding_side = "right"
        texts = [self.format_dialogue(*pair) for pair in zip(questions, answers, strict=True)]
        inputs = self.tokenize(images, texts)
        prompts = self.tokenize(images, [self.format_prompt(question) for question in questions])
        ids, prompt_ids = inputs["input_ids"], prompts["input_ids"]
        labels = torch.full_like(ids, IGNORED_LABEL)
        lengths, prompt_lengths = (
            each["attention_mask"].sum(1).tolist() for each in (inputs, prompts)
        )
        for row, (length, prompt_length) in enumerate(zip(lengths, prompt_lengths, strict=True)):
            same = ids[row, :prompt_length] == prompt_ids[row, :prompt_length]
            # Tokens across the border belong to the answer.
            start = int(same.long().cumprod(0).sum())
            labels[row, start:length] = ids[row, start:length]
        return Dialogues(inputs, labels)

    # Network ----------------------------------------------------------------------------------

    def forward(
        self, inputs: Mapping[str, Tensor], positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            inputs: of `tokenize`.
            positions: [P] at which logits are needed; None = at all.

        Returns:
            Last hidden states [B, T, C] after the final norm, and logits [B, P, V].
        """
        options = {}
        if positions is not None and self._keeps_logits:
            options["logits_to_keep"] = positions
        output = self.model(**inputs, **options, output_hidden_states=True, use_cache=False)
        logits = output.logits
        if positions is not None and not self._keeps_logits:
            logits = logits[:, positions]
        return output.hidden_states[-1], logits

    def seg_states(self, hidden: Tensor, labels: Tensor) -> list[Tensor]:
        """Select the hidden states that stand for the [SEG] tokens of answers.

        Args:
            hidden: [B, T, C].
            labels: [B, T], see `Dialogues`.

        Returns:
            B tensors [n, C], in the order of the tokens.
        """
        shift = 1 if self.seg_state == "predicting" else 0
        return [
            states[(row == self.seg_id).nonzero()[:, 0] - shift]
            for states, row in zip(hidden, labels, strict=True)
        ]

    @torch.no_grad()
    def generate(
        self, image: NDArray[Any], question: str, max_new_tokens: int
    ) -> tuple[str, Tensor]:
        """Answer a question greedily.

        Args:
            image: [H, W, 3] uint8 RGB.
            question: the question.
            max_new_tokens: limit of the answer's length.

        Returns:
            The answer, with [SEG] and [REJ], and the states [n, C] of its [SEG] tokens.
        """
        inputs = self.tokenize([image], [self.format_prompt(question)])
        start = inputs["input_ids"].shape[1]
        room = self.max_tokens - start
        sequence = self.model.generate(
            **inputs,
            max_new_tokens=max(1, min(max_new_tokens, room)),
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        answer_ids = sequence[0, start:]
        answer = self.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
        labels = torch.full_like(sequence, IGNORED_LABEL)
        labels[:, start:] = sequence[:, start:]
        if not (labels == self.seg_id).any():
            return answer, torch.zeros(0, self.width, device=self.device)
        # Of the logits none is needed, and one is computed.
        hidden, _ = self(_extended(inputs, sequence), torch.zeros(1, dtype=torch.long))
        return answer, self.seg_states(hidden, labels)[0]

    @torch.no_grad()
    def assume(self, image: NDArray[Any], question: str, answer: str) -> tuple[str, Tensor]:
        """Evaluate a given answer, in which the model decides between [SEG] and [REJ] only.

        Args:
            image: [H, W, 3] uint8 RGB.
            question: the question.
            answer: with [SEG].

        Returns:
            The answer, with [REJ] for every [SEG] where [REJ] is the likelier token, and the states
            [n, C] of the others.
        """
        dialogue = self.encode_dialogues([image], [question], [answer])
        hidden, logits = self(dialogue.inputs)
        states = self.seg_states(hidden, dialogue.labels)[0]
        positions = (dialogue.labels[0] == self.seg_id).nonzero()[:, 0]
        kept = logits[0, positions - 1, self.seg_id] >= logits[0, positions - 1, self.rej_id]
        parts = answer.split(SEG_TOKEN)
        tokens = [SEG_TOKEN if keep else REJ_TOKEN for keep in kept.tolist()]
        decided = "".join(part + token for part, token in zip(parts, [*tokens, ""], strict=True))
        return decided, states[kept]

    def _end_tokens(self) -> tuple[str, ...]:
        """Tokens that end a generated answer."""
        ids = self.model.generation_config.eos_token_id
        ids = [] if ids is None else [ids] if isinstance(ids, int) else ids
        return (self.tokenizer.eos_token, *self.tokenizer.convert_ids_to_tokens(ids))

    def _add_tokens(self) -> None:
        from tokenizers import AddedToken

        known = self.tokenizer.get_vocab()
        missing = [token for token in (SEG_TOKEN, REJ_TOKEN) if token not in known]
        if not missing:
            return
        self.tokenizer.add_tokens(
            [AddedToken(token, normalized=False, special=False) for token in missing]
        )
        embeddings = self.model.get_input_embeddings()
        if len(self.tokenizer) > embeddings.num_embeddings:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        logger.info(
            "%s has no %s: added to its tokenizer, %d embeddings in all",
            self.name or "The language model",
            " and no ".join(missing),
            self.model.get_input_embeddings().num_embeddings,
        )


def text_options(tokenizer: Any, text: str) -> dict[str, Any]:
    """Options with which a processor takes a text that a chat template has formatted.

    A template that writes the token of the beginning replaces the tokenizer's own.
    """
    begin = tokenizer.bos_token
    return {"add_special_tokens": False} if begin and text.startswith(begin) else {}


def predicting_positions(labels: Tensor) -> Tensor:
    """Return the positions [P] that predict a token of an answer in some row of labels [B, T]."""
    return (labels[:, 1:] != IGNORED_LABEL).any(0).nonzero()[:, 0]


def text_loss(logits: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
    """Cross entropy of the answers' tokens, mean over all of a batch.

    Args:
        logits: [B, P, V].
        labels: [B, T], see `Dialogues`.
        positions: [P], see `predicting_positions`.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels[:, positions + 1].flatten(),
        ignore_index=IGNORED_LABEL,
    )


def load_pretrained(name: str) -> tuple[Any, Any]:
    """Load an image-text-to-text model and its processor from a folder or the hub.

    Raises:
        InputError: if there is no such model, or it does not take images.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not name:
        raise InputError(f"{KEY} names no model: set it to a folder or a name on the hub")
    _require_source(name)
    make_printable("transformers")
    if is_original_llava(name):
        return load_original_llava(name)
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except ImportError as error:
        # Such as SmolVLM's, which needs num2words.
        raise MissingPackageError(
            f"{KEY} {name}: its processor needs a package that is missing: {printable(error, 150)}"
        ) from error
    except Exception as error:  # transformers raises nothing narrower
        raise InputError(
            f"{KEY} {name}: its processor cannot be read: {cause_of(error)}"
        ) from error
    _require_processor(processor, name)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:
        raise InputError(
            f"{KEY} {name}: transformers cannot load it as an image-text-to-text model from "
            f"safetensors: {cause_of(error)}"
        ) from error
    return model, processor


def _require_source(name: str) -> None:
    if os.path.isdir(name):
        return
    if name.startswith((".", "/", "~")):
        raise MissingFileError(f'{KEY}: there is no folder "{name}"')
    try:
        check_hub_file(name, ("config.json",))
    except HubError as error:
        raise InputError(f"{KEY} {printable(name)}: {error}") from error


def _require_processor(processor: Any, name: str) -> None:
    model = printable(name) or "the language model"
    if getattr(processor, "image_processor", None) is None:
        raise InputError(
            f"{KEY}: {model} has no image processor; a model that takes images is needed, such as "
            "LLaVA, Qwen-VL or SmolVLM"
        )
    if not getattr(processor, "chat_template", None):
        raise InputError(f"{KEY}: the processor of {model} has no chat template")


def _max_positions(model: Any) -> int | None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def _message(role: str, text: str, *, image: bool = False) -> dict[str, Any]:
    parts = [{"type": "image"}] if image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _extended(inputs: Mapping[str, Tensor], sequence: Tensor) -> dict[str, Tensor]:
    """Inputs of a longer sequence [1, T]: masks of 1, and other marks of tokens of 0."""
    shape = inputs["input_ids"].shape
    extra = sequence.shape[1] - shape[1]
    extended = {
        key: F.pad(value, (0, extra), value=int(key == "attention_mask"))
        if value.shape == shape
        else value
        for key, value in inputs.items()
    }
    return extended | {"input_ids": sequence}
