"""The families of models of transformers that answer questions about images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.errors import InputError, MissingPackageError
from hipie_reasoning import ReasoningSeg
from hipie_reasoning.modeling.adapters import make_trainable
from hipie_reasoning.modeling.language_model import (
    IGNORED_LABEL,
    MultimodalLanguageModel,
    text_options,
)
from hipie_reasoning.modeling.mask_decoder import SamMaskDecoder
from tests.projects.reasoning.model_families import FAMILIES

QUESTION, ANSWER = "Which of these can fly?", "the bird [SEG], the pig [REJ], the kite [SEG]."


@lru_cache(maxsize=1)
def build(name: str) -> MultimodalLanguageModel:
    """Build a family's model, once for its tests, which follow each other."""
    if name == "smolvlm":
        pytest.importorskip("num2words")
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    return MultimodalLanguageModel(model, processor, name=name, max_tokens=300).eval()


@pytest.fixture(params=list(FAMILIES), scope="module")
def family(request) -> MultimodalLanguageModel:
    return build(request.param)


def reference_inputs(language_model, pixels, question, answer):
    """Inputs of a dialogue by the processor alone, from messages that have the image."""
    content = [{"type": "image", "image": Image.fromarray(pixels)}]
    messages = [
        {"role": "user", "content": [*content, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return language_model.processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )


def reference_states(language_model, inputs):
    """Last hidden states of the tokens [SEG] by the model of transformers alone."""
    with torch.no_grad():
        hidden = language_model.model.model(**inputs).last_hidden_state[0]
    return hidden[(inputs["input_ids"][0] == language_model.seg_id).nonzero()[:, 0] - 1]


def test_states_in_a_padded_batch_are_those_of_transformers(family, pixels) -> None:
    """Images of two sizes; the shorter dialogue is padded."""
    images = [pixels, np.ascontiguousarray(pixels[:40, ::-1])]
    dialogues = family.encode_dialogues(images, [QUESTION, "Why?"], [ANSWER, "[SEG]."])
    with torch.no_grad():
        hidden, _ = family(dialogues.inputs)
    states = family.seg_states(hidden, dialogues.labels)
    assert [len(each) for each in states] == [2, 1]
    dialogue = zip(images, (QUESTION, "Why?"), (ANSWER, "[SEG]."))
    for each, arguments in zip(states, dialogue):
        expected = reference_states(family, reference_inputs(family, *arguments))
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-4)
    # The states depend on the image.
    other = reference_inputs(family, 255 - pixels, QUESTION, ANSWER)
    assert (reference_states(family, other) - states[0]).abs().max() > 1e-3


def test_labels_are_the_answer_and_its_end(family, pixels) -> None:
    """Also in LLaVA 1.5, whose template has no mark at the end of an answer."""
    dialogues = family.encode_dialogues([pixels], [QUESTION], [ANSWER])
    (row,) = dialogues.labels
    ids = row[row != IGNORED_LABEL].tolist()
    ends = family.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    (end,) = [index for index, token in enumerate(ids) if token in ends]
    assert family.tokenizer.decode(ids[:end]).strip() == ANSWER
    assert family.tokenizer.decode(ids[end + 1 :]).strip() == ""


def test_a_text_begins_with_at_most_one_token_of_the_beginning(family, pixels) -> None:
    """The template or the tokenizer writes it, or both."""
    inputs = family.tokenize([pixels], [family.format_prompt(QUESTION)])
    expected = reference_inputs(family, pixels, QUESTION, ANSWER)["input_ids"][0]
    assert torch.equal(inputs["input_ids"][0], expected[: inputs["input_ids"].shape[1]])
    bos = family.tokenizer.bos_token_id
    assert bos is None or inputs["input_ids"][0].tolist().count(bos) == 1


def test_a_generated_answer_has_the_states_of_the_dialogue(family, pixels, image) -> None:
    """An output layer that is biased to the tokens of an answer; the masks are SAM's."""
    from hipie.modeling.sam.loading import load_sam

    dialogue = family.encode_dialogues([pixels], [QUESTION], ["it [SEG], [REJ], [SEG]."])
    tokens = iter(dialogue.labels[dialogue.labels != IGNORED_LABEL].tolist())

    def bias(module, inputs, output):
        output[..., next(tokens, 0)] += 1e4
        return output

    projected: list[torch.Tensor] = []
    torch.manual_seed(0)
    sam = SamMaskDecoder(load_sam("random:tiny"))
    model = ReasoningSeg(language_model=family, mask_decoder=sam).eval()
    model.prompt_projection.register_forward_hook(lambda m, inputs, o: projected.append(inputs[0]))
    hook = family.model.get_output_embeddings().register_forward_hook(bias)
    try:
        (output,) = model([{"image": image, "questions": [QUESTION]}])
    finally:
        hook.remove()
    (answer,) = output["reasoning"]
    assert answer.text == "it [SEG], [REJ], [SEG]."
    assert answer.instances.pred_masks.shape == (2, 60, 90)
    with torch.no_grad():
        hidden, _ = family(dialogue.inputs)
    (expected,) = family.seg_states(hidden, dialogue.labels)
    torch.testing.assert_close(projected[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_train_adapters_and_projection(name, pixels, image) -> None:
    from hipie.modeling.sam.loading import load_sam

    pytest.importorskip("peft")
    language_model = build(name)
    build.cache_clear()  # it is trained here
    make_trainable(
        language_model.model, rank=2, alpha=4.0, dropout=0.0, targets=("q_proj", "v_proj")
    )
    model = ReasoningSeg(
        language_model=language_model, mask_decoder=SamMaskDecoder(load_sam("random:tiny"))
    ).train()
    targets = torch.zeros(2, 60, 90, dtype=torch.bool)
    targets[:, 10:40, 20:60] = True
    item = {"image": image, "questions": [QUESTION], "answers": [ANSWER], "targets": [targets]}
    sum(model([item]).values()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    adapters = [p for n, p in trained.items() if "lora_B" in n]
    assert len(adapters) == 4  # two layers of the text decoder, two projections
    for parameter in (*adapters, model.prompt_projection[0].weight):
        assert parameter.grad.abs().max() > 0
    assert not any("vis" in n for n in trained if n.startswith("language_model."))


def test_an_image_of_three_rows_has_the_axes_of_an_image(pixels) -> None:
    family = build("llava")
    prompt = family.format_prompt(QUESTION)
    inputs = family.tokenize([np.ascontiguousarray(pixels[:3])], [prompt])
    images = [Image.fromarray(pixels[:3])]
    expected = family.processor(text=[prompt], images=images, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


def test_an_image_that_the_processor_refuses_is_an_error() -> None:
    family = build("qwen2_vl")
    image = np.zeros((1, 300, 3), np.uint8)
    with pytest.raises(InputError, match="processor of qwen2_vl cannot take images of 300 x 1 "):
        family.tokenize([image], [family.format_prompt(QUESTION)])


def test_a_tokenizer_without_padding_pads_with_the_end(pixels) -> None:
    model, processor = FAMILIES["llava"]()
    processor.tokenizer.pad_token = None
    language_model = MultimodalLanguageModel(model, processor)
    dialogues = language_model.encode_dialogues([pixels] * 2, [QUESTION, "?a"], [ANSWER, "[SEG]."])
    assert dialogues.inputs["attention_mask"].sum(1).unique().numel() == 2
    assert int(dialogues.inputs["input_ids"][1, -1]) == processor.tokenizer.eos_token_id
    ends = (dialogues.labels == processor.tokenizer.eos_token_id).sum(1)
    assert ends.tolist() == [1, 1]


def test_a_text_without_the_token_of_the_beginning_leaves_it_to_the_tokenizer() -> None:
    tokenizer = build("gemma3").tokenizer
    assert text_options(tokenizer, "<bos>hello") == {"add_special_tokens": False}
    assert text_options(tokenizer, "hello") == {}
    tokenizer_without = build("qwen2_vl").tokenizer
    assert text_options(tokenizer_without, "hello") == {}


def test_a_package_that_a_processor_needs_is_named(tmp_path, monkeypatch) -> None:
    """SmolVLM's writes numbers as words."""
    from transformers.models.smolvlm import processing_smolvlm

    language_model = build("smolvlm")
    language_model.model.save_pretrained(tmp_path)
    language_model.processor.save_pretrained(tmp_path)
    loaded = MultimodalLanguageModel.from_source(str(tmp_path))
    assert type(loaded.model) is type(language_model.model)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(MissingPackageError, match="a package that is missing: .*num2words"):
        MultimodalLanguageModel.from_source(str(tmp_path))
