"""Meta-architecture of reasoning segmentation: a language model that prompts a mask decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from numpy.typing import NDArray
from torch import Tensor

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.errors import InputError, printable
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie_reasoning.checkpoint_converters import OFFICIAL_LISA
from hipie_reasoning.modeling.adapters import make_trainable
from hipie_reasoning.modeling.language_model import (
    SEG_TOKEN,
    MultimodalLanguageModel,
    predicting_positions,
    text_loss,
)
from hipie_reasoning.modeling.mask_decoder import MaskDecoder, build_mask_decoder
from hipie_reasoning.modeling.mask_losses import mask_losses
from hipie_reasoning.modeling.nano_language_model import NANO, TINY
from hipie_reasoning.modeling.prompt_projection import build_prompt_projection
from hipie_reasoning.question_templates import expression_question


@dataclass(frozen=True)
class ReasonedAnswer:
    """Answer to a question about an image.

    Attributes:
        text: with [SEG] for each mask and [REJ] for what the image does not show.
        instances: with `pred_masks` [n, H, W] bool, `pred_boxes`, `scores` (mean probability inside
            the mask) and `pred_classes` 0, in the order of the [SEG] tokens.
    """

    text: str
    instances: Instances


@META_ARCH_REGISTRY.register()
class ReasoningSeg(SegmentationModel):
    """Reasoning segmentation (LISA, Lai et al.; GSVA, Xia et al.; both CVPR 2024).

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and, at test,
    `questions` (a list of texts) or `expressions` (referring expressions); `height` and `width`
    give the size of the output. In training it has `questions`, `answers` (texts with [SEG] and
    [REJ]) and `targets`: for each question bool masks [n, H, W], one for each [SEG].

    Returns a dict of losses in training. Otherwise a dict for each image, with `reasoning`, a
    `ReasonedAnswer` for each question, or `referring`, an `Instances` for each expression.

    Args:
        language_model: see `hipie_reasoning.modeling.language_model`.
        mask_decoder: see `hipie_reasoning.modeling.mask_decoder`.
        loss_weights: of the answers' cross entropy, and the masks' cross entropy and dice loss.
        max_new_tokens: limit of the length of a generated answer.
        assumed_answer: see `MODEL.REASONING.TEST.ASSUMED_ANSWER`.
        bgr: whether the channels of images are in the order BGR.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"reasoning", "referring"})

    @configurable
    def __init__(
        self,
        *,
        language_model: MultimodalLanguageModel,
        mask_decoder: MaskDecoder,
        loss_weights: Sequence[float] = (1.0, 2.0, 0.5),
        max_new_tokens: int = 64,
        assumed_answer: str = "",
        bgr: bool = False,
    ) -> None:
        super().__init__()
        if assumed_answer and SEG_TOKEN not in assumed_answer:
            raise InputError(
                f'MODEL.REASONING.TEST.ASSUMED_ANSWER "{printable(assumed_answer)}" has no '
                f"{SEG_TOKEN}"
            )
        self.language_model = language_model
        self.mask_decoder = mask_decoder
        self.prompt_projection = build_prompt_projection(
            language_model.width, mask_decoder.prompt_width
        )
        self.loss_weights = tuple(loss_weights)
        self.max_new_tokens = max_new_tokens
        self.assumed_answer = assumed_answer
        self.bgr = bgr

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.REASONING` and Detectron2's keys."""
        node = cfg.MODEL.REASONING
        language_model = MultimodalLanguageModel.from_source(
            node.LANGUAGE_MODEL, max_tokens=node.MAX_TOKENS, seg_state=node.SEG_STATE
        )
        make_trainable(
            language_model.model,
            rank=node.LORA.RANK,
            alpha=node.LORA.ALPHA,
            dropout=node.LORA.DROPOUT,
            targets=node.LORA.TARGETS,
        )
        if node.LANGUAGE_MODEL == NANO:
            language_model.model.get_input_embeddings().requires_grad_(False)
        return {
            "language_model": language_model,
            "mask_decoder": build_mask_decoder(cfg),
            "loss_weights": (node.LOSS.TEXT, node.LOSS.BCE, node.LOSS.DICE),
            "max_new_tokens": node.TEST.MAX_NEW_TOKENS,
            "assumed_answer": node.TEST.ASSUMED_ANSWER,
            "bgr": cfg.INPUT.FORMAT == "BGR",
        }

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the model is built from pre-trained networks."""
        return False

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str:
        """Return the name of the mapper to questions and answers, for any data set."""
        return "reasoning"

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Return the converter of the checkpoints of LISA's and GSVA's authors."""
        return (OFFICIAL_LISA,)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.prompt_projection.parameters()).device

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Names of the frozen weights that come with the pre-trained networks."""
        built_here = self.language_model.name in (NANO, TINY)
        return tuple(
            name
            for name, parameter in self.named_parameters()
            if not parameter.requires_grad
            and not (built_here and name.startswith("language_model."))
        )

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of all parameters: LISA decays none."""
        return {name for name, _ in self.named_parameters()}

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch.

        Raises:
            InputError: naming the file of an image whose dialogue is too long, or whose answers
                have another number of [SEG] than masks.
        """
        images, questions, answers = [], [], []
        for item in batched_inputs:
            pixels = self.pixels(item)
            images += [pixels] * len(item["questions"])
            questions += item["questions"]
            answers += item["answers"]
        dialogues = self.language_model.encode_dialogues(images, questions, answers)
        positions = predicting_positions(dialogues.labels)
        hidden, logits = self.language_model(dialogues.inputs, positions)
        states = iter(self.language_model.seg_states(hidden, dialogues.labels))
        mask_logits, targets = [], []
        for item in batched_inputs:
            features = self.mask_decoder.encode(self._rgb(item))
            for answer, target in zip(item["answers"], item["targets"], strict=True):
                prompts = self.prompt_projection(next(states).float())
                if len(prompts) != len(target):
                    raise InputError(
                        f"{item.get('file_name', 'an image')}: the answer "
                        f'"{printable(answer)}" has {len(prompts)} {SEG_TOKEN}, and there are '
                        f"{len(target)} masks"
                    )
                size = (int(target.shape[-2]), int(target.shape[-1]))
                mask_logits.append(self.mask_decoder.decode(features, prompts, size))
                targets.append(to_device(target, self.device))
        text_weight, bce_weight, dice_weight = self.loss_weights
        cross_entropy, dice = mask_losses(mask_logits, targets)
        return {
            "loss_text": text_weight * text_loss(logits, dialogues.labels, positions),
            "loss_mask": bce_weight * cross_entropy,
            "loss_dice": dice_weight * dice,
        }

    def inference(
        self, batched_inputs: list[dict[str, Any]], image_features: Any = None
    ) -> list[dict[str, Any]]:
        """Answer the questions of every image, or segment its expressions.

        Args:
            batched_inputs: see the class; `mask_features` (of `mask_decoder.encode`) may have the
                features of an image.
            image_features: not used.

        Raises:
            InputError: for an image without questions, an empty one, or one that is too long.
        """
        return [self._infer(item) for item in batched_inputs]

    def pixels(self, item: dict[str, Any]) -> NDArray[Any]:
        """Return the image of an input as [H, W, 3] uint8 RGB."""
        pixels: NDArray[Any] = self._rgb(item).permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        return np.ascontiguousarray(pixels)

    def encode_masks(self, item: dict[str, Any]) -> Any:
        """Compute the mask decoder's features of the image of an input."""
        with torch.no_grad():
            return self.mask_decoder.encode(self._rgb(item))

    def _rgb(self, item: dict[str, Any]) -> Tensor:
        image: Tensor = item["image"]
        return image.flip(0) if self.bgr else image

    def _infer(self, item: dict[str, Any]) -> dict[str, Any]:
        if "questions" not in item and "expressions" not in item:
            raise InputError(
                f"{item.get('file_name', 'an image')}: ReasoningSeg needs `questions` or "
                "`expressions`"
            )
        features = item.get("mask_features")
        features = self.mask_decoder.encode(self._rgb(item)) if features is None else features
        if "questions" in item:
            answers = [self._answer(item, features, question) for question in item["questions"]]
            return {"reasoning": answers}
        questions = [expression_question(expression) for expression in item["expressions"]]
        return {"referring": [self._answer(item, features, q).instances for q in questions]}

    def _answer(self, item: dict[str, Any], features: Any, question: str) -> ReasonedAnswer:
        if not any(letter.isalnum() for letter in question):
            name = item.get("file_name", "an image")
            raise InputError(f'{name}: the question "{printable(question)}" asks for nothing')
        pixels = self.pixels(item)
        if self.assumed_answer:
            text, states = self.language_model.assume(pixels, question, self.assumed_answer)
        else:
            text, states = self.language_model.generate(pixels, question, self.max_new_tokens)
        image = item["image"]
        size = (item.get("height", image.shape[-2]), item.get("width", image.shape[-1]))
        logits = self.mask_decoder.decode(features, self.prompt_projection(states.float()), size)
        return ReasonedAnswer(text, mask_instances(logits))


def mask_instances(logits: Tensor) -> Instances:
    """Convert mask logits [n, H, W] to `Instances`; see `ReasonedAnswer`."""
    masks = logits > 0
    inside = (logits.float().sigmoid() * masks).flatten(1).sum(1)
    instances = Instances((int(logits.shape[-2]), int(logits.shape[-1])))
    instances.pred_masks = masks
    instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
    instances.scores = inside / masks.flatten(1).sum(1).clamp(min=1)
    instances.pred_classes = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    return instances
