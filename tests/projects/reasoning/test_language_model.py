"""The language model: tokens, labels, and hidden states as transformers computes them."""

from __future__ import annotations

import logging

import pytest
import torch

from hipie.errors import InputError
from hipie_reasoning.modeling.language_model import (
    IGNORED_LABEL,
    MultimodalLanguageModel,
    predicting_positions,
    text_loss,
)
from hipie_reasoning.modeling.nano_language_model import build_small_language_model

QUESTION, ANSWER = "Which of these can fly?", "the bird [SEG], the pig [REJ], the kite [SEG]."


def test_labels_are_the_tokens_of_the_answer(language_model, pixels) -> None:
    """Also where a question names [SEG]."""
    questions = [QUESTION, "Is [SEG] a token, and is this question the longer one of the two?"]
    dialogues = language_model.encode_dialogues([pixels] * 2, questions, [ANSWER, "It is [SEG]."])
    texts = [language_model.tokenizer.decode(row[row != IGNORED_LABEL]) for row in dialogues.labels]
    assert texts == [
        "the bird [SEG], the pig [REJ], the kite [SEG]. [SEP]",
        "it is [SEG]. [SEP]",
    ]
    given = dialogues.labels != IGNORED_LABEL
    assert torch.equal(dialogues.labels[given], dialogues.inputs["input_ids"][given])


@pytest.mark.parametrize(("seg_state", "shift"), [("predicting", 1), ("token", 0)])
def test_states_of_seg_are_those_of_transformers(
    seg_state, shift, language_model, pixels, monkeypatch
) -> None:
    """The processor and the model of transformers alone, on one unpadded dialogue."""
    monkeypatch.setattr(language_model, "seg_state", seg_state)
    long_question = "A longer question, so that the other dialogue of the batch is padded?"
    dialogues = language_model.encode_dialogues(
        [pixels] * 2, [QUESTION, long_question], [ANSWER, "It is [SEG]."]
    )
    with torch.no_grad():
        hidden, _ = language_model(dialogues.inputs)
    states = language_model.seg_states(hidden, dialogues.labels)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ]
    processor, model = language_model.processor, language_model.model
    text = processor.apply_chat_template(messages, tokenize=False)
    inputs = processor(text=[text], images=[pixels], return_tensors="pt")
    with torch.no_grad():
        expected = model.model(**inputs).last_hidden_state[0]
    seg_id = processor.tokenizer.convert_tokens_to_ids("[SEG]")
    positions = (inputs["input_ids"][0] == seg_id).nonzero()[:, 0]
    assert [len(each) for each in states] == [2, 1]
    torch.testing.assert_close(states[0], expected[positions - shift], atol=1e-5, rtol=1e-5)


def test_states_of_a_generated_answer_are_those_of_the_generation(language_model, pixels) -> None:
    """The hidden states that `generate` of transformers returns, step by step."""
    model = language_model.model
    inputs = language_model.tokenize([pixels], [language_model.format_prompt(QUESTION)])
    with torch.no_grad():
        generated = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    answer = generated.sequences[0, inputs["input_ids"].shape[1] :]
    # The random model does not say [SEG]; its third token takes that part.
    third = MultimodalLanguageModel.__new__(MultimodalLanguageModel)
    third.__dict__.update(language_model.__dict__)
    third.seg_id = int(answer[2])
    count = int((answer == third.seg_id).sum())
    _, states = third.generate(pixels, QUESTION, 4)
    assert len(states) == count
    expected = torch.cat([step[-1][0, -1:] for step in generated.hidden_states])
    torch.testing.assert_close(states, expected[answer == third.seg_id], atol=1e-4, rtol=1e-4)


def test_text_loss_is_that_of_transformers(language_model, pixels) -> None:
    dialogues = language_model.encode_dialogues(
        [pixels] * 2, [QUESTION, "Where is the longest river of the world?"], [ANSWER, "[SEG]."]
    )
    positions = predicting_positions(dialogues.labels)
    with torch.no_grad():
        _, logits = language_model(dialogues.inputs, positions)
        expected = language_model.model(**dialogues.inputs, labels=dialogues.labels).loss
    assert logits.shape[1] == len(positions) < dialogues.labels.shape[1]
    torch.testing.assert_close(text_loss(logits, dialogues.labels, positions), expected)


def test_a_model_without_the_tokens_gets_them_once(caplog) -> None:
    model, processor = build_small_language_model("tiny")
    before = model.get_input_embeddings().num_embeddings
    with caplog.at_level(logging.INFO, "hipie_reasoning"):
        first = MultimodalLanguageModel(model, processor, name="small")
        second = MultimodalLanguageModel(model, processor, name="small")
    assert model.get_input_embeddings().num_embeddings == before + 2
    assert model.get_output_embeddings().out_features == before + 2
    assert (first.seg_id, first.rej_id) == (second.seg_id, second.rej_id) == (before, before + 1)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "small has no [SEG] and no [REJ]" in messages[0]


def test_embeddings_beyond_the_tokenizer_are_kept() -> None:
    """As in Qwen-VL, whose table of embeddings is padded."""
    model, processor = build_small_language_model("tiny")
    model.resize_token_embeddings(31000, mean_resizing=False)
    wrapped = MultimodalLanguageModel(model, processor)
    assert model.get_input_embeddings().num_embeddings == 31000
    assert wrapped.rej_id < 31000


def test_a_dialogue_that_is_too_long_names_the_limit(language_model, pixels) -> None:
    with pytest.raises(InputError, match=r"reads 200 \(MODEL.REASONING.MAX_TOKENS\)"):
        language_model.tokenize([pixels], [language_model.format_prompt("why " * 300)])


def test_the_limit_is_that_of_the_model_where_it_is_lower() -> None:
    wrapped = MultimodalLanguageModel(*build_small_language_model("tiny"), max_tokens=100_000)
    assert wrapped.max_tokens == 512


def test_a_model_without_an_image_processor_is_refused(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    _, processor = build_small_language_model("tiny")
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, vocab_size=100)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no image processor"):
        MultimodalLanguageModel.from_source(str(tmp_path))


def test_a_processor_without_a_chat_template_is_refused() -> None:
    model, processor = build_small_language_model("tiny")
    processor.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        MultimodalLanguageModel(model, processor)


@pytest.mark.parametrize("name", ["", "/no/such/folder", "owner/model-that-is-not-cached"])
def test_a_model_that_does_not_exist_is_named(name) -> None:
    with pytest.raises(InputError, match="MODEL.REASONING.LANGUAGE_MODEL"):
        MultimodalLanguageModel.from_source(name)


def test_a_saved_model_is_loaded_with_its_tokens(language_model, pixels, tmp_path) -> None:
    """A folder in the form of the hub; here the tokens exist already."""
    language_model.model.save_pretrained(tmp_path)
    language_model.processor.save_pretrained(tmp_path)
    loaded = MultimodalLanguageModel.from_source(str(tmp_path), max_tokens=200).eval()
    assert loaded.seg_id == language_model.seg_id
    dialogue = loaded.encode_dialogues([pixels], [QUESTION], [ANSWER])
    with torch.no_grad():
        states, expected = (each(dialogue.inputs)[0] for each in (loaded, language_model))
    torch.testing.assert_close(states, expected)


def test_an_assumed_seg_is_rejected_where_rej_is_likelier(language_model, pixels) -> None:
    """The bias of the output layer decides."""
    head = language_model.model.get_output_embeddings()
    for likelier, text, count in (("seg_id", "[SEG] and [SEG].", 2), ("rej_id", "[REJ]", 0)):
        row = getattr(language_model, likelier)
        bias = torch.zeros(head.out_features)
        bias[row] = 1000.0
        hook = head.register_forward_hook(lambda _, __, output, bias=bias: output + bias)
        answer, states = language_model.assume(pixels, QUESTION, "[SEG] and [SEG].")
        hook.remove()
        assert answer.startswith(text)
        assert states.shape == (count, 32)
