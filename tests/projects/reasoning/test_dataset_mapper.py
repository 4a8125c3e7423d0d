"""Questions, answers and masks that the mapper makes of records of every form."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hipie.data.picturebook import CATEGORY_IDS
from hipie.errors import InputError
from hipie_reasoning.data.dataset_mapper import ReasoningDatasetMapper
from hipie_reasoning.data.picturebook_questions import PROPERTIES, add_questions
from hipie_reasoning.question_templates import (
    DatasetQuestion,
    QueriedObject,
    answer_text,
    inference_question,
    sample_dialogue,
)

SIZE = (40, 60)
BOX, OTHER = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
BOX[5:20, 10:30], OTHER[25:35, 30:50] = True, True


@pytest.fixture
def record(tmp_path) -> dict:
    path = tmp_path / "page.png"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    return {"file_name": str(path), "height": SIZE[0], "width": SIZE[1], "image_id": 1}


def annotation(mask: np.ndarray, index: int) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"segmentation": rle, "category_id": index, "iscrowd": 0}


def expressions(record, *entries) -> dict:
    return record | {
        "annotations": [annotation(BOX, 0), annotation(OTHER, 1)],
        "expressions": [{"expression": text, "targets": targets} for text, targets in entries],
    }


def mapper(**options) -> ReasoningDatasetMapper:
    return ReasoningDatasetMapper(
        **{"training": True, "min_sizes": (40,), "max_size": 100, **options}
    )


def test_an_expression_is_asked_for_and_answered_by_its_mask(record) -> None:
    item = mapper()(expressions(record, ("both boxes", [0, 1])), (0,))
    assert "both boxes" in item["questions"][0]
    assert item["answers"][0].count("[SEG]") == 1
    assert np.array_equal(item["targets"][0].numpy(), (BOX | OTHER)[None])


def test_absent_objects_are_rejected_where_they_are_wanted(record) -> None:
    data = expressions(record, ("no box", []))
    with pytest.raises(InputError, match="page.png: there is nothing to ask"):
        mapper()(data, (0,))
    item = mapper(absent=True)(data, (0,))
    assert "[REJ]" in item["answers"][0]
    assert "[SEG]" not in item["answers"][0]
    assert item["targets"][0].shape == (0, *SIZE)


def test_several_expressions_are_joined_with_a_token_each(record) -> None:
    data = expressions(record, ("one box", [0]), ("no box", []), ("another box", [1]))
    item = mapper(absent=True, objects_per_question=3)(data, (4,))
    (question,), (answer,), (targets,) = item["questions"], item["answers"], item["targets"]
    assert all(name in question for name in ("one box", "no box", "another box"))
    assert "no box [REJ]" in answer
    order = sorted(("one box [SEG]", "another box [SEG]"), key=answer.index)
    masks = {"one box [SEG]": BOX, "another box [SEG]": OTHER}
    assert np.array_equal(targets.numpy(), np.stack([masks[name] for name in order]))


def test_classes_of_instances_and_absent_ones_are_asked_for(record) -> None:
    data = record | {"annotations": [annotation(BOX, 2), annotation(OTHER, 2)]}
    options = {"class_names": ("cup", "dog", "box"), "absent": True, "questions_per_image": 9}
    item = mapper(**options)(data, (0,))
    by_answer = dict(zip(item["questions"], item["targets"]))
    (masks,) = [targets for text, targets in by_answer.items() if "box" in text]
    assert np.array_equal(masks.numpy(), (BOX | OTHER)[None])
    assert sorted(len(targets) for targets in item["targets"]) == [0, 1]


def test_classes_of_a_semantic_map_are_asked_for(record, tmp_path) -> None:
    labels = np.where(BOX, 1, np.where(OTHER, 255, 0)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    data = record | {"sem_seg_file_name": str(tmp_path / "labels.png")}
    item = mapper(class_names=("sky", "box"), questions_per_image=9)(data, (0,))
    assert len(item["questions"]) == 2
    for text, targets in zip(item["questions"], item["targets"]):
        expected = BOX if "box" in text else labels == 0
        assert np.array_equal(targets.numpy(), expected[None])


def test_a_flip_turns_image_masks_and_sides(record) -> None:
    item = mapper(flip_prob=1.0)(expressions(record, ("the left box", [0])), (0,))
    assert "the right box" in item["questions"][0]
    assert np.array_equal(item["targets"][0].numpy(), BOX[None, :, ::-1])


def test_at_most_so_many_questions_are_sampled(record) -> None:
    data = expressions(record, *((f"box {n}", [0]) for n in range(7)))
    assert len(mapper(questions_per_image=2)(data, (0,))["questions"]) == 2
    assert mapper()(data, (5,))["questions"] == mapper()(data, (5,))["questions"]


def test_expressions_stay_as_they_are_at_test(record) -> None:
    item = mapper(training=False)(expressions(record, ("one box", [0]), ("no box", [])))
    assert item["expressions"] == ["one box", "no box"]
    assert "targets" not in item


def test_questions_are_asked_as_sentences_at_test(record) -> None:
    question = DatasetQuestion("What keeps the rain off?", True, (QueriedObject("", ()),))
    item = mapper(training=False)(record | {"questions": [question]})
    assert item["questions"] == [inference_question(question)]
    assert item["questions"][0].startswith("What keeps the rain off? ")


def test_a_known_explanation_is_asked_for_and_given() -> None:
    objects = (QueriedObject("", (0,)),)
    question = DatasetQuestion("What helps?", True, objects, "It keeps the rain off.")
    rng = np.random.default_rng(0)
    asked, answer = sample_dialogue(question, rng, 1.0)
    assert "why" in asked or "explain" in asked
    assert "[SEG]" in answer
    assert answer.endswith("It keeps the rain off.")
    assert not sample_dialogue(question, rng, 0.0)[1].endswith("off.")


def test_answers_name_each_of_several_objects() -> None:
    objects = (QueriedObject("a dog", (1,)), QueriedObject("a pig", ()))
    assert answer_text(objects) == "a dog [SEG], a pig [REJ]."


# Questions about the picture book -------------------------------------------------------------


def page(*names: str) -> dict:
    segments = [
        {"id": 10 + n, "category_id": CATEGORY_IDS[name] - 1} for n, name in enumerate(names)
    ]
    return {"image_id": 3, "segments_info": segments}


def test_targets_of_a_question_are_all_segments_with_the_property() -> None:
    names = ("bird", "kite", "dog", "sky", "bird")
    (record,) = add_questions([page(*names)], held_out=False)
    answers = {q.text: q.objects[0].targets for q in record["questions"]}
    assert 4 <= len(answers) <= 6
    by_wording = {wording: each for each in PROPERTIES for wording in each.wordings}
    for text, targets in answers.items():
        has = by_wording[text].classes
        assert targets == tuple(10 + n for n, name in enumerate(names) if name in has)
    assert sum(not targets for targets in answers.values()) == 2


def test_held_out_wordings_are_not_in_the_training_split() -> None:
    pages = [page("bird", "dog", "boat", "water", "sky") | {"image_id": n} for n in range(60)]
    texts = [
        {q.text for record in add_questions(pages, held_out=held_out) for q in record["questions"]}
        for held_out in (False, True)
    ]
    assert not texts[0] & texts[1]
    assert texts[1] == {each.wordings[-1] for each in PROPERTIES}


def test_every_wording_is_of_one_property() -> None:
    wordings = [wording for each in PROPERTIES for wording in each.wordings]
    assert len(set(wordings)) == len(wordings)
    assert all(len(each.wordings) >= 3 for each in PROPERTIES)
    assert {name for each in PROPERTIES for name in each.classes} <= set(CATEGORY_IDS)
