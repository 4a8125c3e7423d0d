"""Task predictors of `Segmenter.reason`: a trained model, or a chat model and any other model.

The second needs no training: a chat model answers a question by JSON with class names or referring
expressions, and any model with the task segments them.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from hipie.data.image_io import ImageError
from hipie.errors import InputError, describe, printable
from hipie.segmentation import Answer, Segment, Segmentation
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


def read_questions(questions: Any) -> tuple[str, ...]:
    """Check one question or several.

    Raises:
        InputError: if there is none, or one is no text, or has no word.
    """
    if isinstance(questions, str):
        questions = (questions,)
    if not isinstance(questions, Sequence) or not questions:
        raise InputError(f"a question must be a string, not {describe(questions)}")
    for question in questions:
        if not isinstance(question, str):
            raise InputError(f"a question must be a string, not {describe(question)}")
        if not any(letter.isalnum() for letter in question):
            raise InputError(f'the question "{printable(question)}" asks for nothing')
    return tuple(question.strip() for question in questions)


def join_results(
    image: PreparedImage, results: Iterable[tuple[str, str, Segmentation]]
) -> Segmentation:
    """Join the results of several questions about an image.

    Args:
        image: the image.
        results: question, text of the answer, and its segments.
    """
    segments: list[Segment] = []
    answers: list[Answer] = []
    names: dict[str, None] = {}
    for question, text, result in results:
        positions = range(len(segments), len(segments) + len(result))
        answers.append(Answer(question, text, tuple(positions)))
        segments += result
        names |= dict.fromkeys(result.class_names)
    return Segmentation(image.pixels, segments, tuple(names), answers=tuple(answers))


@register_task_predictor("reasoning")
class ReasoningPredictor(TaskPredictor):
    """The answers of a `ReasoningSeg`, and a segment of kind "expression" for each [SEG] in one."""

    model_task = "reasoning"
    model: ReasoningSeg

    def encode(self, image: PreparedImage) -> None:
        """Compute the mask decoder's features of an image."""
        self._features(image)

    def _features(self, image: PreparedImage) -> Any:
        return image.cached("mask_features", lambda: self.model.encode_masks(image.inputs))

    def predict(
        self, images: Sequence[PreparedImage], *, questions: str | Sequence[str], **request: Any
    ) -> list[Segmentation]:
        """Answer questions about each of several images.

        Args:
            images: one or more.
            questions: one question or several.
            request: not used.

        Returns:
            Results with `answers`; their segments are labelled by the questions.

        Raises:
            InputError: for a question without a word, or one that is too long.
        """
        checked = read_questions(questions)
        return [join_results(image, self._answers(image, checked)) for image in images]

    def _answers(
        self, image: PreparedImage, questions: Sequence[str]
    ) -> Iterator[tuple[str, str, Segmentation]]:
        output = image.run(questions=list(questions), mask_features=self._features(image))
        for question, answer in zip(questions, output["reasoning"], strict=True):
            masks = answer.instances.pred_masks.cpu().numpy().astype(bool)
            segments = [
                Segment(question, "expression", mask, score)
                for mask, score in zip(masks, answer.instances.scores.tolist(), strict=True)
            ]
            yield question, answer.text, Segmentation(image.pixels, segments, (question,))


class ChatReasoningPredictor(TaskPredictor):
    """Segments what a chat model names in answer to a question.

    Attributes:
        prompt: text with `{question}` that asks for the lists.
        lists: names of the lists in the chat model's answer.
    """

    prompt: ClassVar[str]
    lists: ClassVar[tuple[str, ...]]

    @abstractmethod
    def segment(self, image: PreparedImage, *names: list[str]) -> Segmentation:
        """Segment what the lists name; at least one of them is not empty."""

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        questions: str | Sequence[str],
        language_model: str | ChatModel,
        **request: Any,
    ) -> list[Segmentation]:
        """Answer questions about each of several images.

        Args:
            images: one or more.
            questions: one question or several.
            language_model: see `Segmenter.reason`.
            request: not used.

        Returns:
            Results with `answers`.

        Raises:
            InputError: for a question without a word, or an answer of another form.
        """
        checked = read_questions(questions)
        return [
            join_results(image, self._answers(image, checked, language_model)) for image in images
        ]

    def _answers(
        self, image: PreparedImage, questions: Sequence[str], language_model: str | ChatModel
    ) -> Iterator[tuple[str, str, Segmentation]]:
        for question in questions:
            text, *names = ask(language_model, self.prompt, question, image, self.lists)
            nothing = Segmentation(image.pixels, ())
            yield question, text, self.segment(image, *names) if any(names) else nothing


@register_task_predictor("reasoning_by_classes")
class ClassReasoningPredictor(ChatReasoningPredictor):
    """Segments the classes by which a chat model answers a question, as things and stuff."""

    model_task = "universal"
    prompt = CLASSES_TASK
    lists = ("things", "stuff")

    def segment(self, image: PreparedImage, *names: list[str]) -> Segmentation:
        """Segment classes; see `ChatReasoningPredictor.segment`."""
        things, stuff = names
        known = {name_key(name) for name in things}
        stuff = [name for name in stuff if name_key(name) not in known]
        classes = ClassRequest.from_names(things, stuff, None)
        return UniversalPredictor(self.model).predict([image], classes=classes)[0]


@register_task_predictor("reasoning_by_expressions")
class ExpressionReasoningPredictor(ChatReasoningPredictor):
    """Segments the referring expressions by which a chat model answers a question."""

    model_task = "referring"
    prompt = EXPRESSIONS_TASK
    lists = ("expressions",)

    def segment(self, image: PreparedImage, *names: list[str]) -> Segmentation:
        """Segment expressions; see `ChatReasoningPredictor.segment`."""
        return ReferringPredictor(self.model).predict([image], expressions=names[0])[0]


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
        InputError: if there is no such model.
        ImageError: if the answer has another form.
    """
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
        raise ImageError(
            f"the language model's answer is no JSON: {printable(text, 60)}"
        ) from error
    names = [content.get(name) for name in lists] if isinstance(content, Mapping) else [None]
    valid = all(isinstance(e, list) and all(isinstance(n, str) for n in e) for e in names)
    if not valid or not isinstance(content.get("answer"), str):
        raise ImageError(
            f'the language model\'s answer lacks a text "answer" or a list of texts '
            f"{', '.join(lists)}: {printable(text, 60)}"
        )
    return dict(content)


def _distinct(names: Sequence[str]) -> list[str]:
    distinct = {name_key(name): name.strip() for name in reversed(names)}
    kept = {key: name for key, name in distinct.items() if any(map(str.isalnum, name))}
    return list(reversed(kept.values()))[:MAX_NAMES]
