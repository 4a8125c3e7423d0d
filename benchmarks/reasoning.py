"""Answers of a trained nano `ReasoningSeg` on held-out pages of the picture book, and controls.

    python benchmarks/reasoning.py output/reasoning_nano_picturebook --pages 30

Every page is asked in the wordings of the training and in held-out ones. The controls: each
question is replaced by one about another property of the same page, and no model at all, but the
annotated masks of the classes that a question names. gIoU counts an empty mask of a question
without a target as 1; "target" is the mean over questions with a target.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).parents[1])  # this folder has programs named like packages

import numpy as np
import torch

from hipie import Segmenter
from hipie.data.picturebook import CATEGORY_IDS, CLASS_NAMES, STUFF, THINGS, PictureBook
from hipie_reasoning.data.picturebook_questions import add_questions
from hipie_reasoning.evaluation import ReasoningCounts
from hipie_reasoning.question_templates import inference_question

SYNONYMS = {each.name: (each.name, *each.synonyms) for each in (*THINGS, *STUFF)}
CONTROLS = ("own question", "shuffled question", "word match")


def main() -> None:
    """Evaluate, and print one line a set of wordings and control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", help="OUTPUT_DIR of the training")
    parser.add_argument("--pages", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = Segmenter.from_config(
        Path(args.training) / "config.yaml", Path(args.training) / "model_final.pth", "cpu"
    )
    counts = {
        (held_out, control): ReasoningCounts() for held_out in (False, True) for control in CONTROLS
    }
    for index in range(args.pages):
        page = PictureBook(0, "val").page(index)
        image = segmenter.prepare(page.image)
        features = segmenter.model.encode_masks(image.inputs)
        for held_out in (False, True):
            count_page(segmenter, page, image.inputs, features, held_out, counts)
    for (held_out, control), of_control in counts.items():
        scores = of_control.scores()
        print(
            f"{'held-out' if held_out else 'training'} wordings, {control}: "
            f"gIoU {scores['gIoU']:.1f}, target {scores['gIoU-target']:.1f}, "
            f"cIoU {scores['cIoU']:.1f}, N-acc {scores['N-acc']:.1f}, T-acc {scores['T-acc']:.1f} "
            f"({scores['questions']} questions)"
        )


def count_page(
    segmenter: Segmenter,
    page: Any,
    inputs: dict[str, Any],
    features: Any,
    held_out: bool,
    counts: dict[tuple[bool, str], ReasoningCounts],
) -> None:
    """Ask all questions of a page, and count every answer as its own and as the next one's."""
    segments = [
        {"id": each.id, "category_id": CATEGORY_IDS[each.name] - 1} for each in page.segments
    ]
    record = {"image_id": page.index, "segments_info": segments}
    (record,) = add_questions([record], held_out=held_out)
    questions = record["questions"]
    texts = [inference_question(question) for question in questions]
    output = segmenter.model([inputs | {"questions": texts, "mask_features": features}])[0]
    answers = [each.instances.pred_masks.numpy().any(0) for each in output["reasoning"]]
    for position, question in enumerate(questions):
        target = page.mask(*question.objects[0].targets)
        counts[held_out, "own question"].add(answers[position], target)
        counts[held_out, "shuffled question"].add(answers[position - 1], target)
        counts[held_out, "word match"].add(matched_mask(page, question.text), target)


def matched_mask(page: Any, text: str) -> np.ndarray[Any, Any]:
    """Mask of all segments whose class, or a synonym of it, is a word of the question."""
    words = " ".join(re.findall(r"[a-z]+", text.lower()))
    named = {
        name
        for name in CLASS_NAMES
        if any(re.search(rf"\b{synonym}s?\b", words) for synonym in SYNONYMS[name])
    }
    return page.mask(*(each.id for each in page.segments if each.name in named))


if __name__ == "__main__":
    main()
