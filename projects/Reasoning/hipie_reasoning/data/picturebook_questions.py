"""Questions about pages of the picture book that need one step of reasoning.

A question names a use or a property ("What keeps the rain off?"), and its answer is every thing or
stuff of the page that has it; pages without one are questions without a target. Every property has
several wordings: the last one is held out of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hipie.data.picturebook import CLASS_NAMES
from hipie_reasoning.question_templates import DatasetQuestion, QueriedObject


@dataclass(frozen=True)
class Property:
    """A property of classes, and questions for what has it; the last wording is held out."""

    classes: tuple[str, ...]
    wordings: tuple[str, ...]


PROPERTIES = (
    Property(
        ("bird", "kite", "balloon"),
        ("Which of these can fly?", "What could be up in the air?", "What is able to fly away?"),
    ),
    Property(
        ("umbrella",),
        ("What keeps the rain off?", "What do you open in the rain?", "What helps against rain?"),
    ),
    Property(
        ("boat",),
        ("What carries people over water?", "What has a sail?", "What do people sail in?"),
    ),
    Property(("dog",), ("What barks?", "Who fetches a stick?", "Who likes to bark at strangers?")),
    Property(("cat",), ("What purrs?", "Who catches mice?", "Who hunts mice and purrs?")),
    Property(
        ("car",),
        ("What has an engine?", "What can be driven to work?", "What does a driver sit in?"),
    ),
    Property(
        ("chair",),
        ("What can you sit on?", "Where could someone rest their legs?", "What is made to sit on?"),
    ),
    Property(
        ("cup",),
        ("What can you drink from?", "What holds hot tea?", "What do you drink tea from?"),
    ),
    Property(
        ("ball",),
        ("What can be kicked?", "What do players throw?", "What do you kick in a game?"),
    ),
    Property(
        ("house",),
        ("Where do people live?", "What has a roof and a door?", "What do people live in?"),
    ),
    Property(
        ("tree", "flower"),
        ("What has roots?", "Which of these grows from a seed?", "What grows and has roots?"),
    ),
    Property(
        ("fish",),
        ("What breathes under water?", "What has fins?", "What lives under water and has fins?"),
    ),
    Property(
        ("person",),
        ("Who can speak?", "Who wears a shirt?", "Who could read a book?"),
    ),
    Property(
        ("dog", "cat", "bird", "fish"),
        ("Which are animals?", "Who has a tail?", "Show every animal with a tail."),
    ),
    Property(
        ("sky",),
        ("Where do clouds drift?", "Where does the sun stand?", "Where would you see clouds?"),
    ),
    Property(
        ("water",),
        ("What could you swim in?", "Where is it wet?", "Where could you get wet and swim?"),
    ),
    Property(
        ("grass",),
        ("What do cows eat?", "What has to be mown?", "What would a cow like to eat?"),
    ),
    Property(
        ("sand",),
        ("What are castles built of at the sea?", "What do deserts consist of?",
         "What could a child build a castle of?"),
    ),
    Property(
        ("snow",),
        ("What is cold and melts?", "What falls in winter?", "What melts after winter?"),
    ),
    Property(
        ("road",),
        ("Where do vehicles drive?", "What connects two towns?", "Where would you drive to town?"),
    ),
)  # fmt: skip
_QUESTIONS_PER_PAGE = 6
_ABSENT_PER_PAGE = 2


def add_questions(
    records: Sequence[Mapping[str, Any]], *, held_out: bool, seed: int = 0
) -> list[dict[str, Any]]:
    """Add `questions` to panoptic records of the picture book.

    A page has up to four questions with a target and two without, each about another property.

    Args:
        records: with `image_id` and `segments_info`.
        held_out: take the wordings that are held out of training, and no others.
        seed: together with the page's `image_id` it determines the questions.
    """
    return [
        {**record, "questions": _questions(record, held_out, seed), "kind": "reasoning"}
        for record in records
    ]


def _questions(record: Mapping[str, Any], held_out: bool, seed: int) -> list[DatasetQuestion]:
    rng = np.random.default_rng([seed, int(record["image_id"])])
    names = {
        segment["id"]: CLASS_NAMES[segment["category_id"]] for segment in record["segments_info"]
    }
    present: list[DatasetQuestion] = []
    absent: list[DatasetQuestion] = []
    for index in rng.permutation(len(PROPERTIES)):
        each = PROPERTIES[index]
        targets = tuple(key for key, name in names.items() if name in each.classes)
        wordings = each.wordings[-1:] if held_out else each.wordings[:-1]
        text = str(rng.choice(wordings))
        question = DatasetQuestion(text, True, (QueriedObject("", targets),))
        (present if targets else absent).append(question)
    chosen = absent[:_ABSENT_PER_PAGE]
    return present[: _QUESTIONS_PER_PAGE - len(chosen)] + chosen
