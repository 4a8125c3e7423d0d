"""`Segmenter.reason`: a trained model, and a scripted chat model with another model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from hipie import Segmenter, add_hipie_config
from hipie.cli.main import main
from hipie.errors import InputError
from hipie_reasoning import TransformersChatModel
from hipie_reasoning.task_predictor import answer_schema

TINY = str(Path(__file__).parents[2] / "tiny.yaml")


class ScriptedChat:
    """Chat model that says what it is given, and keeps what it was asked."""

    def __init__(self, answer) -> None:
        self.answer = answer if isinstance(answer, str) else json.dumps(answer)
        self.asked: list = []

    def complete(self, prompt, image, schema) -> str:
        self.asked.append((prompt, image, schema))
        return self.answer


@pytest.fixture
def trained(model) -> Segmenter:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST = 60
    return Segmenter(model, cfg)


@pytest.fixture(scope="module")
def by_names(tiny_text, tiny_weights) -> Segmenter:
    options = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", 64]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", options)


def test_a_trained_model_answers_with_a_segment_for_each_seg(trained, pixels, script) -> None:
    script("the bird [SEG], the pig [REJ], the kite [SEG].")
    answer, result = trained.reason(pixels, "which can fly?")
    assert answer == result.answer == "the bird [SEG], the pig [REJ], the kite [SEG]."
    assert [segment.kind for segment in result] == ["expression"] * 2
    assert result.masks.shape == (2, 60, 90)
    content = result.to_dict()
    (entry,) = content["answers"]
    assert entry == {"question": "which can fly?", "answer": answer, "segments": [1, 2]}
    assert [each["id"] for each in content["segments"]] == [1, 2]


def test_several_questions_have_the_results_of_each(trained, pixels, script) -> None:
    script("the bird [SEG], the kite [SEG].")
    questions = ["which can fly?", "who barks?"]
    answer, result = trained.reason(pixels, questions)
    singles = [trained.reason(pixels, question)[1] for question in questions]
    assert answer.splitlines() == [single.answer for single in singles]
    assert [each.question for each in result.answers] == questions
    for each, single in zip(result.answers, singles):
        assert [result.segments[position] for position in each.segments] == list(single)
    assert list(result.class_names) == questions
    assert len(result) == 4


def test_an_image_is_encoded_once_for_several_questions(
    trained, pixels, script, monkeypatch
) -> None:
    script("It is [SEG].")
    calls = []
    encode = trained.model.mask_decoder.encode
    monkeypatch.setattr(
        trained.model.mask_decoder, "encode", lambda image: calls.append(1) or encode(image)
    )
    trained.set_image(pixels)
    first, second = (trained.reason(question=q)[1] for q in ("which can fly?", "who barks?"))
    assert calls == [1]
    assert len(first) == len(second) == 1


@pytest.mark.parametrize("question", ["", "?", None, [], ["what?", "?"], [1]])
def test_a_question_about_nothing_is_refused(trained, pixels, question) -> None:
    with pytest.raises(InputError, match="question"):
        trained.reason(pixels, question)


def test_a_chat_model_names_the_classes_that_are_segmented(by_names, pixels) -> None:
    chat = ScriptedChat(
        {"answer": "A bird.", "things": ["bird", " Bird"], "stuff": ["sky", "bird"]}
    )
    answer, result = by_names.reason(pixels, "what can fly?", language_model=chat)
    assert answer == "A bird."
    expected = by_names.segment(pixels, things=["bird"], stuff=["sky"])
    assert result == expected
    ((prompt, image, schema),) = chat.asked
    assert "what can fly?" in prompt
    assert np.array_equal(image, pixels)
    assert schema == answer_schema("things", "stuff")


def test_a_chat_model_is_called_with_each_question(by_names, pixels) -> None:
    chat = ScriptedChat({"answer": "A bird.", "things": ["bird"], "stuff": []})
    answer, result = by_names.reason(pixels, ["what flies?", "what sings?"], language_model=chat)
    assert answer == "A bird.\nA bird."
    assert ["what flies?" in chat.asked[0][0], "what sings?" in chat.asked[1][0]] == [True, True]
    expected = list(by_names.segment(pixels, things=["bird"]))
    assert list(result) == expected * 2
    assert list(result.class_names) == ["bird"]
    count = len(expected)
    positions = [each.segments for each in result.answers]
    assert positions == [tuple(range(count)), tuple(range(count, 2 * count))]


def test_a_chat_model_that_names_nothing_has_no_segment(by_names, pixels) -> None:
    chat = ScriptedChat({"answer": "Nothing flies here.", "things": [], "stuff": ["  "]})
    answer, result = by_names.reason(pixels, "what can fly?", language_model=chat)
    assert answer == "Nothing flies here."
    assert len(result) == 0


def test_a_chat_model_describes_objects_for_a_model_of_expressions(by_names, pixels) -> None:
    """A model without class names."""
    chat = ScriptedChat({"answer": "It does.", "expressions": ["the red bird"]})
    predictor = by_names.task_predictor("reasoning_by_expressions")
    image = by_names.prepare(pixels)
    (result,) = predictor.predict([image], questions="what can fly?", language_model=chat)
    assert result.answer == "It does."
    assert result == by_names.refer(pixels, ["the red bird"])


@pytest.mark.parametrize(
    "answer",
    ["no JSON", "[]", {"answer": "x"}, {"answer": 1, "things": [], "stuff": []},
     {"answer": "x", "things": [1], "stuff": []}],
)  # fmt: skip
def test_answers_of_another_form_are_refused(by_names, pixels, answer) -> None:
    with pytest.raises(InputError, match="the language model's answer"):
        by_names.reason(pixels, "what can fly?", language_model=ScriptedChat(answer))


def test_a_language_model_that_is_none_is_refused(by_names, pixels) -> None:
    with pytest.raises(InputError, match="language_model must be a name"):
        by_names.reason(pixels, "what can fly?", language_model=7)
    with pytest.raises(InputError, match="no folder"):
        by_names.reason(pixels, "what can fly?", language_model="./no/such/folder")


def test_a_model_without_the_task_names_those_that_have_it(by_names, pixels) -> None:
    with pytest.raises(InputError, match=r"HIPIE cannot reason\(\)"):
        by_names.reason(pixels, "what can fly?")


def test_a_random_chat_model_is_constrained_to_the_schema(pixels) -> None:
    """Tokens are bytes; without the constraint its text is no JSON."""
    pytest.importorskip("xgrammar")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    chat = TransformersChatModel(LlamaForCausalLM(config).eval(), tokenizer, max_new_tokens=120)
    short = {"type": "string", "maxLength": 4}
    schema = {
        "type": "object",
        "properties": {"answer": short, "things": {"type": "array", "items": short, "maxItems": 2}},
        "required": ["answer", "things"],
        "additionalProperties": False,
    }
    content = json.loads(chat.complete("what can fly?", pixels, schema))
    assert set(content) == {"answer", "things"}
    assert isinstance(content["answer"], str)


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(InputError, match="no chat template"):
        TransformersChatModel(None, object(), "owner/base-model")


def test_the_command_writes_answer_and_masks(
    trained, pixels, script, in_tmp, monkeypatch, capsys
) -> None:
    from hipie.cli import reason

    script("It is [SEG].")
    monkeypatch.setattr(reason, "build_segmenter", lambda args, task: trained)
    Image.fromarray(pixels).save("page.png")
    assert main(["reason", "page.png", "which can fly?", "--output", "out"]) == 0
    assert capsys.readouterr().out.startswith("it is [SEG].\n")
    content = json.loads(Path("out/page.json").read_text())
    assert [each["answer"] for each in content["answers"]] == ["it is [SEG]."]
    assert content["settings"]["questions"] == ["which can fly?"]
    assert len(content["segments"]) == 1
    with pytest.raises(SystemExit) as stop:
        main(["reason", "page.png", "?", "--output", "out"])
    assert stop.value.code == 2
