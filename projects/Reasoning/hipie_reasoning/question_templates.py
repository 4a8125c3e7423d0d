"""Questions and answers made of names, expressions and questions of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hipie_reasoning.modeling.language_model import REJ_TOKEN, SEG_TOKEN

# About a name or an expression; the first is used at test.
NAME_QUESTIONS = (
    "Please segment {name} in this image.",
    "Where in this image is {name}? Answer with a mask.",
    "Can you mark {name} with a mask?",
)
# About a whole question; the first is used at test.
QUESTION_TEMPLATES = (
    "{text} Please answer with a mask.",
    "{text} Please segment it.",
)
EXPLAINED_QUESTIONS = (
    "{text} Please answer with a mask and say why.",
    "{text} Please segment it and explain the answer.",
)
ANSWERS = (
    f"It is {SEG_TOKEN}.",
    f"{SEG_TOKEN}.",
    f"Sure, {SEG_TOKEN}.",
    f"This is the mask: {SEG_TOKEN}.",
)


@dataclass(frozen=True)
class QueriedObject:
    """What one [SEG] or [REJ] of an answer is about.

    Attributes:
        name: for answers about several; "" for one that the question does not name.
        targets: positions in the record's `annotations`, whose union is the mask; () = absent.
    """

    name: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class DatasetQuestion:
    """A question of a data set.

    Attributes:
        text: a question or request, or the name or expression of what is sought.
        is_question: whether it is a whole question, not a name or phrase.
        objects: at least one; with several of them the answer names each.
        explanation: what explains the answer; "" = none is known.
    """

    text: str
    is_question: bool
    objects: tuple[QueriedObject, ...]
    explanation: str = ""


def expression_question(expression: str) -> str:
    """Return the question that is asked at test about a referring expression or class name."""
    return NAME_QUESTIONS[0].format(name=expression.strip().rstrip("."))


def inference_question(question: DatasetQuestion) -> str:
    """Return the text of a question as it is asked at test."""
    if question.is_question:
        return QUESTION_TEMPLATES[0].format(text=question.text.strip())
    return expression_question(question.text)


def sample_dialogue(
    question: DatasetQuestion, rng: np.random.Generator, explanation_prob: float = 0.0
) -> tuple[str, str]:
    """Sample the text of a training question and its answer.

    Args:
        question: of the data set.
        rng: of the training item.
        explanation_prob: probability that a known explanation is asked for and given.
    """
    explained = bool(question.explanation) and rng.random() < explanation_prob
    if explained:
        template = str(rng.choice(EXPLAINED_QUESTIONS))
    else:
        template = str(rng.choice(QUESTION_TEMPLATES if question.is_question else NAME_QUESTIONS))
    text = question.text.strip()
    wording = template.format(text=text, name=text.rstrip("."))
    answer = answer_text(question.objects, str(rng.choice(ANSWERS)))
    return wording, f"{answer} {question.explanation}" if explained else answer


def answer_text(objects: Sequence[QueriedObject], template: str = ANSWERS[0]) -> str:
    """Return the answer about one object, or a list of several names, each with its token.

    Args:
        objects: at least one.
        template: of an answer about one object, with [SEG].
    """
    tokens = [SEG_TOKEN if each.targets else REJ_TOKEN for each in objects]
    if len(objects) == 1:
        return template.replace(SEG_TOKEN, tokens[0])
    names = [each.name.strip().rstrip(".") for each in objects]
    return ", ".join(f"{name} {token}" for name, token in zip(names, tokens, strict=True)) + "."


def join_questions(questions: Sequence[DatasetQuestion]) -> DatasetQuestion:
    """Join questions about names into one about all of them, as GSVA (Xia et al., CVPR 2024)."""
    if len(questions) == 1:
        return questions[0]
    objects = [
        QueriedObject(question.text, each.targets)
        for question in questions
        for each in question.objects
    ]
    return DatasetQuestion(
        ", ".join(question.text.strip().rstrip(".") for question in questions),
        False,
        tuple(objects),
    )
