"""`hipie reason` with several images and questions, by a segmenter without a model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg

from hipie.cli import reason
from hipie.cli.main import main
from hipie.data.image_io import ImageError
from hipie.errors import InputError
from hipie.segmentation import Answer, Segmentation
from tests.batch_inference import stub

QUESTIONS = ["what barks?", "what grows?"]


class StubSegmenter:
    """Answers with the halves of an image: the upper one barks, the lower one grows.

    Attributes:
        calls: questions and language model of each call.
        error: raised for the image whose pixels have the value 1, where it is not None.
        tasks: that models were built for.
    """

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.tasks: list[str] = []
        self.error: Exception | None = None
        self.model = torch.nn.Linear(1, 1)
        self.cfg = get_cfg()
        self.cfg.INPUT.MAX_PIXELS = 10_000
        self.device = torch.device("cpu")

    def reason(self, image, questions, *, language_model):
        self.calls.append((questions, language_model))
        if isinstance(image, str):
            from hipie.data.image_io import read_image

            image = read_image(image)
        if self.error is not None and image[0, 0, 0] == 1:
            raise self.error
        halves = stub.segment(image)
        answers = [
            Answer(question, f"It is {name}.", (position,))
            for position, (question, name) in enumerate(zip(questions, ("the dog", "grass")))
        ]
        result = Segmentation(image, halves.segments, halves.class_names, answers=answers)
        return result.answer, result


@pytest.fixture
def segmenter(monkeypatch):
    built = StubSegmenter()

    def build(args, task):
        built.tasks.append(task)
        return built

    monkeypatch.setattr(reason, "build_segmenter", build)
    return built


@pytest.fixture
def photos(in_tmp):
    for number in range(3):
        stub.write_image(in_tmp / f"photos/{number}.png", number)
    return in_tmp / "photos"


# The head of the dog, a part, has the id 2.
ANSWERS = [
    {"question": "what barks?", "answer": "It is the dog.", "segments": [1]},
    {"question": "what grows?", "answer": "It is grass.", "segments": [3]},
]


def test_a_folder_has_the_answers_to_every_question(photos, segmenter, capsys) -> None:
    command = ["reason", "photos", *QUESTIONS]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["output: 3 done, 0 skipped, 0 failed"]
    assert segmenter.calls == [(QUESTIONS, None)] * 3
    assert segmenter.tasks == ["reasoning"]
    for number in range(3):
        content = json.loads(Path(f"output/{number}.json").read_text())
        assert content["answers"] == ANSWERS
        assert content["settings"]["program"] == "hipie reason"
        assert content["settings"]["questions"] == QUESTIONS
        assert Path(f"output/{number}.png").is_file()
    assert main(command) == 0
    assert len(segmenter.calls) == 3
    assert "0 done, 3 skipped" in capsys.readouterr().err
    # Other questions are other results.
    with pytest.raises(SystemExit):
        main(["reason", "photos", "what flies?"])
    assert "results of another questions" in capsys.readouterr().err


def test_lines_have_the_answers(photos, segmenter, capsys) -> None:
    assert main(["reason", "photos/0.png", "photos/2.png", *QUESTIONS, "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"]["file"] for line in lines] == ["photos/0.png", "photos/2.png"]
    assert [line["answers"] for line in lines] == [ANSWERS, ANSWERS]


def test_one_image_prints_an_answer_for_each_question(photos, segmenter, capsys) -> None:
    assert main(["reason", "photos/0.png", *QUESTIONS, "--language-model", "owner/chat"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "It is the dog.",
        "It is grass.",
        "output/0.png",
    ]
    assert segmenter.calls == [(QUESTIONS, "owner/chat")]
    assert segmenter.tasks == ["universal"]
    content = json.loads(Path("output/0.json").read_text())
    assert content["answers"] == ANSWERS
    assert content["settings"]["language_model"] == "owner/chat"


def test_an_image_that_fails_leaves_the_others(photos, segmenter, capsys) -> None:
    """An answer of another form is about one image; a question that is too long about all."""
    segmenter.error = ImageError("the language model's answer is no JSON: ...")
    assert main(["reason", "photos", *QUESTIONS]) == 1
    assert "2 done, 0 skipped, 1 failed" in capsys.readouterr().err
    (line,) = Path("output/errors.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "photos/1.png"
    assert "no JSON" in json.loads(line)["error"]
    segmenter.error = InputError("ask a shorter question")
    with pytest.raises(SystemExit, match="shorter question"):
        main(["reason", "photos", *QUESTIONS])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "the following arguments are required: QUESTION"),
        (["photos", "photos/0.png"], r"write hipie reason IMAGE... QUESTION..."),
        (["photos", "what?", "photos/0.png"], "images come before questions"),
        (["photos", "what barks?", "?!"], "needs a question, with words"),
    ],
)
def test_mistakes_are_named_before_a_model_is_built(
    photos, segmenter, capsys, arguments, message
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reason", *arguments])
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")
    assert segmenter.tasks == []
