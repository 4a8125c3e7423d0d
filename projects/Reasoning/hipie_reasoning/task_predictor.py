"""Task predictors of `Segmenter.reason`: a trained model, or a chat model and any other model.

The second needs no training: a chat model answers a question by JSON with class names or referring
expressions, and any model with the task segments them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hipie.errors import InputError, describe, printable
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor
from hipie.task_predictors.referring import ReferringPredictor
from hipie.task_predictors.universal import ClassRequest, UniversalPredictor
from hipie.vocabularies.vocabulary import name_key
from hipie_reasoning.chat_model import ChatModel, load_chat_model
from hipie_reasoning.meta_arch import ReasoningSeg

MAX_NAMES = 8
_NAMES = {"type": "array", "items": {"type": "string", "maxLength": 80}, "maxItems": MAX_NAMES}
_ANSWER = {"type": "string", "maxLength": 300}
_TASK = (
    "A program segments an image for a person who asks this question about it: {question}\n"
    "Answer it in one sentence, and {names} Leave the lists empty if nothing fits."
)
CLASSES_TASK = _TASK.replace(
    "{names}",
    "list what has to be segmented by simple nouns in the singular: countable objects as "
    '"things", regions such as sky or grass as "stuff".',
)
EXPRESSIONS_TASK = _TASK.replace(
    "{names}", 'list as "expressions" a short description of every object to segment.'
).replace("the lists", "the list")


def answer_schema(*lists: str) -> dict[str, Any]:
    """Return the JSON schema of an answer with lists of names."""
    properties = {"answer": _ANSWER, **dict.fromkeys(lists, _NAMES)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_question(question: Any) -> str:
    """Check a question.

    Raises:
        InputError: if it is no text, or has no word.
    """
    if not isinstance(question, str):
        raise InputError(f"a question must be a string, not {describe(question)}")
    if not any(letter.isalnum() for letter in question):
        raise InputError(f'the question "{printable(question)}" asks for nothing')
    return question.strip()


@register_task_predictor("reasoning")
class ReasoningPredictor(TaskPredictor):
    """The answer of a `ReasoningSeg`, and a segment of kind "expression" for each [SEG] in it."""

    model_task = "reasoning"
    model: ReasoningSeg

    def encode(self, image: PreparedImage) -> None:
        """Compute the mask decoder's features of an image."""
        self._features(image)

    def _features(self, image: PreparedImage) -> Any:
        return image.cached("mask_features", lambda: self.model.encode_masks(image.inputs))

    def predict(
        self, images: Sequence[PreparedImage], *, question: str, **request: Any
    ) -> list[Segmentation]:
        """Answer a question about each of several images.

        Args:
            images: one or more.
            question: the question.
            request: not used.

        Returns:
            Results with `answer`; their segments are labelled by the question.

        Raises:
            InputError: for a question without a word, or one that is too long.
        """
        question = read_question(question)
        results = []
        for image in images:
            output = image.run(questions=[question], mask_features=self._features(image))
            (answer,) = output["reasoning"]
            masks = answer.instances.pred_masks.cpu().numpy().astype(bool)
            scores = answer.instances.scores.tolist()
            segments = [
                Segment(question, "expression", mask, score)
                for mask, score in zip(masks, scores, strict=True)
            ]
            results.append(Segmentation(image.pixels, segments, (question,), answer=answer.text))
        return results


@register_task_predictor("reasoning_by_classes")
class ClassReasoningPredictor(TaskPredictor):
    """Segments the classes by which a chat model answers a question."""

    model_task = "universal"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        question: str,
        language_model: str | ChatModel,
        **request: Any,
    ) -> list[Segmentation]:
        """Answer a question about each of several images.

        Args:
            images: one or more.
            question: the question.
            language_model: see `Segmenter.reason`.
            request: not used.

        Returns:
            Results with `answer`; their segments are things and stuff.

        Raises:
            InputError: for a question without a word, or an answer of another form.
        """
        predictor = UniversalPredictor(self.model)
        results = []
        for image in images:
            answer, things, stuff = ask(
                language_model, CLASSES_TASK, question, image, ("things", "stuff")
            )
            known = {name_key(name) for name in things}
            stuff = [name for name in stuff if name_key(name) not in known]
            result = Segmentation(image.pixels, ())
            if things or stuff:
                classes = ClassRequest.from_names(things, stuff, None)
                (result,) = predictor.predict([image], classes=classes)
            results.append(replace(result, answer=answer))
        return results


@register_task_predictor("reasoning_by_expressions")
class ExpressionReasoningPredictor(TaskPredictor):
    """Segments the referring expressions by which a chat model answers a question."""

    model_task = "referring"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        question: str,
        language_model: str | ChatModel,
        **request: Any,
    ) -> list[Segmentation]:
        """Answer a question about each of several images; see `ClassReasoningPredictor.predict`.

        Args:
            images: one or more.
            question: the question.
            language_model: see `Segmenter.reason`.
            request: not used.

        Returns:
            Results with `answer`; their segments are of kind "expression".
        """
        predictor = ReferringPredictor(self.model)
        results = []
        for image in images:
            answer, expressions = ask(
                language_model, EXPRESSIONS_TASK, question, image, ("expressions",)
            )
            result = Segmentation(image.pixels, ())
            if expressions:
                (result,) = predictor.predict([image], expressions=expressions)
            results.append(replace(result, answer=answer))
        return results


def ask(
    language_model: str | ChatModel,
    task: str,
    question: str,
    image: PreparedImage,
    lists: Sequence[str],
) -> tuple[Any, ...]:
    """Ask a chat model, and read its answer.

    Args:
        language_model: its name, or the model.
        task: with `{question}`.
        question: of the user.
        image: that the question is about.
        lists: names of the answer's lists.

    Returns:
        The answer, and the lists in order, without names that are repeated or have no letters.

    Raises:
        InputError: if the answer has another form.
    """
    question = read_question(question)
    if isinstance(language_model, str):
        chat: ChatModel = load_chat_model(language_model)
    elif isinstance(language_model, ChatModel):
        chat = language_model
    else:
        raise InputError(
            "language_model must be a name or have a method complete, not "
            f"{describe(language_model)}"
        )
    text = chat.complete(task.format(question=question), image.pixels, answer_schema(*lists))
    content = _parse(text, lists)
    return (content["answer"], *(_distinct(content[name]) for name in lists))


def _parse(text: str, lists: Sequence[str]) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the language model's answer is no JSON: {printable(text, 60)}"
        ) from error
    names = [content.get(name) for name in lists] if isinstance(content, Mapping) else [None]
    valid = all(isinstance(e, list) and all(isinstance(n, str) for n in e) for e in names)
    if not valid or not isinstance(content.get("answer"), str):
        raise InputError(
            f'the language model\'s answer lacks a text "answer" or a list of texts '
            f"{', '.join(lists)}: {printable(text, 60)}"
        )
    return dict(content)


def _distinct(names: Sequence[str]) -> list[str]:
    distinct = {name_key(name): name.strip() for name in reversed(names)}
    kept = {key: name for key, name in distinct.items() if any(map(str.isalnum, name))}
    return list(reversed(kept.values()))[:MAX_NAMES]
