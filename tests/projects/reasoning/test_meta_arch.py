"""The architecture: losses, answers and masks, and mistakes in its inputs."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances
from segment_anything import SamPredictor

from hipie.errors import InputError


def training_item(image, answers, counts) -> dict:
    targets = [torch.zeros(count, 60, 90, dtype=torch.bool) for count in counts]
    for target in targets:
        target[:, 10:40, 20:60] = True
    questions = ["Which of these can fly?"] * len(answers)
    return {"image": image, "questions": questions, "answers": answers, "targets": targets}


def test_losses_reach_language_model_projection_and_decoder(model, image) -> None:
    item = training_item(image, ["a [SEG], b [REJ], c [SEG].", "It is [REJ]."], [2, 0])
    model.train()
    losses = model([item])
    assert set(losses) == {"loss_text", "loss_mask", "loss_dice"}
    losses["loss_mask"].backward()
    decoder = model.mask_decoder.sam.mask_decoder
    layer = model.language_model.model.model.language_model.layers[0]
    for weight in (
        model.prompt_projection[0].weight,
        decoder.output_hypernetworks_mlps[0].layers[0].weight,
        layer.self_attn.q_proj.weight,
    ):
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
    assert model.mask_decoder.sam.image_encoder.pos_embed.grad is None
    model.zero_grad()


def test_weights_of_losses_multiply(model, image) -> None:
    item = training_item(image, ["It is [SEG]."], [1])
    model.train()
    with torch.no_grad():
        first = model([item])
        model.loss_weights = (3.0, 4.0, 1.0)  # in place of 1, 2 and 0.5
        second = model([item])
    for name, factor in (("loss_text", 3), ("loss_mask", 2), ("loss_dice", 2)):
        torch.testing.assert_close(second[name], factor * first[name])


def test_rejected_objects_have_no_mask_loss(model, image) -> None:
    model.train()
    losses = model([training_item(image, ["It is [REJ]."], [0])])
    assert float(losses["loss_mask"]) == float(losses["loss_dice"]) == 0
    assert float(losses["loss_text"]) > 0


def test_masks_are_those_of_sam_prompted_with_the_projected_state(
    model, image, pixels, script, language_model
) -> None:
    """SamPredictor of the published package on the same image and prompt."""
    script("It is [SEG].")
    (output,) = model([{"image": image, "questions": ["Which can fly?"]}])
    (answer,) = output["reasoning"]
    with torch.no_grad():
        _, states = language_model.generate(pixels, "Which can fly?", 9)
        prompt = model.prompt_projection(states)
        sam = model.mask_decoder.sam
        predictor = SamPredictor(sam)
        predictor.set_image(pixels)
        _, dense = sam.prompt_encoder(None, None, None)
        small, _ = sam.mask_decoder(
            predictor.features, sam.prompt_encoder.get_dense_pe(), prompt[:, None], dense, False
        )
        expected = sam.postprocess_masks(small, predictor.input_size, (60, 90))[:, 0] > 0
    assert answer.text == "it is [SEG]."
    assert torch.equal(answer.instances.pred_masks, expected)


def test_every_seg_of_an_answer_has_a_mask(model, image, script) -> None:
    script("the bird [SEG], the pig [REJ], the kite [SEG].")
    item = {"image": image, "questions": ["Which can fly?"], "height": 120, "width": 180}
    (answer,) = model([item])[0]["reasoning"]
    assert answer.text == "the bird [SEG], the pig [REJ], the kite [SEG]."
    assert answer.instances.pred_masks.shape == (2, 120, 180)


def test_an_answer_without_seg_has_no_mask(model, image, script) -> None:
    script("There is no bird.")
    (answer,) = model([{"image": image, "questions": ["Which can fly?"]}])[0]["reasoning"]
    assert answer.text == "there is no bird."
    assert answer.instances.pred_masks.shape == (0, 60, 90)


def test_expressions_have_instances_for_the_evaluators(model, image, script) -> None:
    script("It is [SEG].")
    (output,) = model([{"image": image, "expressions": ["the red bird", "a dog"]}])
    assert [type(each) for each in output["referring"]] == [Instances, Instances]
    assert all(each.pred_masks.shape == (1, 60, 90) for each in output["referring"])


def test_given_features_of_the_image_are_used(model, image, script) -> None:
    script("It is [SEG].")
    item = {"image": image, "questions": ["Which can fly?"]}
    features = model.encode_masks(item)
    model.mask_decoder.encode = None
    model([item | {"mask_features": features}])


def test_an_assumed_answer_is_not_generated(model, image, script) -> None:
    script("There is no bird.")
    model.assumed_answer = "Sure, [SEG]."
    model.language_model.model.lm_head.weight.data[model.language_model.rej_id] = 0
    (answer,) = model([{"image": image, "questions": ["Which can fly?"]}])[0]["reasoning"]
    assert answer.text.startswith("Sure, [")


def test_bgr_images_are_turned(model, image) -> None:
    item = {"image": image}
    expected = model.pixels(item)
    model.bgr = True
    assert (model.pixels({"image": image.flip(0)}) == expected).all()


@pytest.mark.parametrize("question", ["", "  ", "?!"])
def test_a_question_about_nothing_is_refused(model, image, question) -> None:
    with pytest.raises(InputError, match=r"page.png: the question .* asks for nothing"):
        model([{"image": image, "questions": [question], "file_name": "page.png"}])


def test_an_image_without_questions_is_refused(model, image) -> None:
    with pytest.raises(InputError, match="page.png: ReasoningSeg needs `questions`"):
        model([{"image": image, "file_name": "page.png"}])


def test_masks_that_the_answer_does_not_have_are_refused(model, image) -> None:
    item = training_item(image, ["It is [SEG]."], [2]) | {"file_name": "page.png"}
    model.train()
    with pytest.raises(InputError, match=r"page.png: the answer .* has 1 \[SEG\], and there are 2"):
        model([item])


def test_frozen_weights_of_sam_are_left_out_of_checkpoints(model) -> None:
    external = set(model.external_weight_prefixes())
    assert "mask_decoder.sam.image_encoder.pos_embed" in external
    assert not any(".mask_decoder.transformer" in name for name in external)
    assert not any(name.startswith(("language_model.", "prompt_projection.")) for name in external)


def test_the_limit_of_tokens_is_that_of_the_key() -> None:
    """MODEL.REASONING.MAX_TOKENS."""
    from detectron2.config import get_cfg

    from hipie import add_hipie_config
    from hipie_reasoning import ReasoningSeg

    cfg = get_cfg()
    add_hipie_config(cfg)
    options = {"LANGUAGE_MODEL": "tiny", "SAM": "random:tiny", "MAX_TOKENS": 77}
    cfg.MODEL.REASONING.update(options)
    assert ReasoningSeg.from_config(cfg)["language_model"].max_tokens == 77
