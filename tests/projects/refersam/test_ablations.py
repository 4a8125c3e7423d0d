"""Ablations of ReferSAM."""

from __future__ import annotations

import re

import pytest
import torch

from refersam.meta_arch import InteractionConfig
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.sam import VARIANTS

ABLATIONS = {
    "interactor": {"interactor": False},
    "dense prompt": {"dense_prompt": False},
    "context tokens": {"context_tokens": 0},
    "sparse tokens": {"sparse_tokens": 0},
    "text in the interactor": {"interactor_text": False, "context_tokens": 0},
    "multi-scale maps": {"feature_strides": (16,)},
    "interactions and layers": {
        "num_interactions": 1,
        "num_extra_pairs": 0,
        "num_prompt_blocks": 1,
    },
    "prompter": {"prompter": False, "dense_prompt": False},
    "interactor and prompter": {"interactor": False, "prompter": False, "dense_prompt": False},
}
# Parameters of SAM that a prompt of tokens and a mask does not use.
UNUSED = (
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "mask_decoder.iou_prediction_head.",
)


def build(make_model, ablation: str):
    settings = dict(ABLATIONS[ablation])
    if not settings.get("prompter", True):
        settings["criterion"] = MaskCriterion(64, (1, 1, 0, 0))
    return make_model(**settings)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_trains_and_predicts(make_model, item, ablation):
    """All modules of an ablation are used: no parameter but SAM's unused ones has no gradient."""
    model = build(make_model, ablation).train()
    losses = model([item])
    assert len(losses) == (4 if model.prompter else 2)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert model.image_encoder.blocks[0].attn.qkv.weight.grad.any()
    assert model.text_encoder.model.encoder.layer[0].output.dense.weight.grad.any()
    unused = {n for n, p in model.named_parameters() if p.grad is None and p.numel()}
    dense = "no_mask_embed" if model.dense_prompt else "mask_downscaling."
    expected = (*UNUSED, f"prompt_encoder.{dense}")
    if not model.dense_prompt and model.prompter:
        expected += ("prompt_head.mask_scaling.",)
    assert unused == {n for n, _ in model.named_parameters() if n.startswith(expected)}
    assert len(model.eval()([item])[0]["referring"]) == 3


@pytest.mark.parametrize(
    "ablation", ["text in the interactor", "multi-scale maps", "interactor and prompter"]
)
def test_ablation_shares_the_encoding_of_an_image(make_model, scene, ablation):
    images, ids, mask = scene
    model = build(make_model, ablation)
    with torch.no_grad():
        separate, _ = model.mask_logits(images[[0, 0]], ids, mask)
        shared, _ = model.mask_logits(images[:1], ids, mask, image_of=[0, 0])
    assert (shared - separate).abs().max() <= 1e-4 * separate.abs().mean()
    assert not torch.equal(shared[0], shared[1])  # the expression prompts SAM in all of them


def test_baseline_equals_segment_anything(make_model, scene):
    """SAM's own three modules, called by hand with the expression's feature as sparse prompt."""
    from segment_anything.modeling import PromptEncoder

    images, ids, mask = scene
    square = images[:, :, :, :64].repeat(1, 1, 4, 4)  # SAM's own encoder has a fixed size
    model = build(make_model, "interactor and prompter")
    assert model.interactor.spatial_prior is None and not len(model.projections.levels)
    prompt_encoder = PromptEncoder(256, (16, 16), (256, 256), 16)
    prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
    with torch.no_grad():
        logits, coarse_logits, features = model.mask_logits(
            square, ids, mask, returned=["low_res_logits", "image_embedding", "iou"]
        )
        embeddings = model.image_encoder(square)
        hidden = model.text_encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
        prompts = model.projections.text(hidden[:, 0])[:, None]
        for row in range(2):
            no_points, no_mask = prompt_encoder(points=None, boxes=None, masks=None)
            masks, iou = model.mask_decoder(
                image_embeddings=embeddings[row : row + 1],
                image_pe=prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=torch.cat([no_points, prompts[row : row + 1]], dim=1),
                dense_prompt_embeddings=no_mask,
                multimask_output=False,
            )
            assert no_points.shape == (1, 0, 256)
            torch.testing.assert_close(
                features["low_res_logits"][row : row + 1], masks, atol=1e-3, rtol=1e-3
            )
            torch.testing.assert_close(features["iou"][row : row + 1], iou, atol=1e-4, rtol=1e-3)
    assert coarse_logits is None
    torch.testing.assert_close(features["image_embedding"], embeddings, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(logits).all() and logits.shape == (2, 256, 256)


@pytest.mark.parametrize("ablation", ["text in the interactor", None])
def test_features_before_the_prompter_depend_on_text_fused_in_the_interactor(
    make_model, scene, ablation
):
    images, ids, mask = scene
    model = build(make_model, ablation) if ablation else make_model()
    with torch.no_grad():
        features = [
            model.mask_logits(images[[0, 0]], tokens, token_mask, returned="all")[2]
            for tokens, token_mask in ((ids, mask), (ids.flip(0), mask.flip(0)))
        ]
    of_text = re.compile(r"text|lang_proj|block\d_(lang|context)")
    of_prompts = re.compile(
        r"(prompt_block|dense_|sparse_|coarse_|mask_prompt|low_res_|logits|iou)"
    )
    before = [n for n in features[0] if not of_text.fullmatch(n) and not of_prompts.match(n)]
    assert len(before) == 26
    changed = {name for name in before if not torch.equal(features[0][name], features[1][name])}
    if ablation:
        assert not changed
    else:
        assert {"block0_adapter", "injector1", "block3_vit", "c2", "image_embedding"} <= changed
        assert not changed & {"spm_c1", "injector0", "block0_vit", "extractor0"}
    assert not torch.equal(features[0]["logits"], features[1]["logits"])


def test_without_multi_scale_maps_all_attention_is_to_one_map(make_model, scene):
    model = build(make_model, "multi-scale maps")
    with torch.no_grad():
        logits, coarse, features = model.mask_logits(*scene, returned="all")
    assert features["block3_adapter"].shape == (2, 24, 192)
    assert {"c2", "c4", "spm_c2", "spm_c4"} & set(features) == set()
    assert logits.shape == (2, 64, 96) and coarse.shape == (2, 1, 16, 24)
    assert len(model.interactor.spatial_prior.stages) == 2
    assert model.prompter.level_embedding.shape == (1, 256)


@pytest.mark.parametrize("strides", [(8, 16), (16, 32)])
def test_maps_of_two_strides(make_model, scene, strides):
    with torch.no_grad():
        _, coarse, features = make_model(feature_strides=strides).mask_logits(
            *scene, returned="all"
        )
    assert features["block3_adapter"].shape[1] == sum(64 * 96 // stride**2 for stride in strides)
    assert coarse.shape == (2, 1, 16, 24)


@pytest.mark.parametrize("count", [0, 1, 8, 32])
def test_number_of_learned_tokens(make_model, scene, count):
    model = make_model(context_tokens=count, sparse_tokens=count, generated_weights=False)
    with torch.no_grad():
        logits, _, features = model.mask_logits(
            *scene, returned=["sparse_prompt", "block3_context"]
        )
    assert features["sparse_prompt"].shape == (2, count, 256)
    assert features["block3_context"].shape == (2, count, 32)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("count", "groups"),
    [(1, [12]), (2, [6, 6]), (3, [6, 3, 3]), (4, [3, 3, 3, 3])],
)
def test_interactions_end_at_global_attention(make_model, scene, count, groups):
    model = make_model(num_interactions=count, num_extra_pairs=1, generated_weights=False)
    assert [len(group) for group in model.interactor.groups] == groups
    assert all(g[-1] in VARIANTS["vit_t"].global_blocks for g in model.interactor.groups)
    assert [len(block.pairs) for block in model.interactor.interactions][-1] == 2
    calls = []
    for index, block in enumerate(model.image_encoder.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    with torch.no_grad():
        model.mask_logits(*scene)
    assert calls == list(range(12))


def test_number_of_prompt_blocks(make_model, scene):
    with torch.no_grad():
        _, _, features = make_model(num_prompt_blocks=3).mask_logits(*scene, returned="all")
    assert {name for name in features if name.startswith("prompt_block")} == {
        f"prompt_block{i}" for i in range(3)
    }


def test_losses_are_linear_in_their_weights(make_model, item):
    losses = []
    for weights in ((1, 1, 1, 1), (2, 0, 0.5, 0)):
        model = make_model(criterion=MaskCriterion(64, weights)).train()
        torch.manual_seed(3)
        losses.append({name: loss.item() for name, loss in model([item]).items()})
    names = ("loss_mask", "loss_dice", "loss_mask_aux", "loss_dice_aux")
    for name, weight in zip(names, (2, 0, 0.5, 0)):
        assert losses[1][name] == pytest.approx(weight * losses[0][name])
        assert losses[0][name] > 0


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"prompter": False}, ("DENSE_PROMPT", "PROMPTER")),
        ({"sparse_tokens": 0, "dense_prompt": False}, ("SPARSE_TOKENS", "DENSE_PROMPT")),
        ({"interactor_text": False}, ("CONTEXT_TOKENS", "INTERACTOR_TEXT")),
        ({"interactor_text": False, "interactor": False}, ("INTERACTOR_TEXT", "INTERACTOR")),
        ({"interactor": False, "num_interactions": 2}, ("NUM_INTERACTIONS", "INTERACTOR is")),
        ({"interactor": False, "num_extra_pairs": 0}, ("NUM_EXTRA_PAIRS", "INTERACTOR is")),
        ({"interactor": False, "context_tokens": 8}, ("CONTEXT_TOKENS", "INTERACTOR is")),
        (
            {"prompter": False, "dense_prompt": False, "num_prompt_blocks": 3},
            ("NUM_PROMPT_BLOCKS", "PROMPTER is"),
        ),
        (
            {"prompter": False, "dense_prompt": False, "sparse_tokens": 2},
            ("SPARSE_TOKENS", "PROMPTER is"),
        ),
        ({"feature_strides": (8, 32)}, ("FEATURE_STRIDES", "16")),
        ({"feature_strides": (16, 8)}, ("FEATURE_STRIDES", "ascending")),
        ({"num_prompt_blocks": 0}, ("NUM_PROMPT_BLOCKS", "at least 1")),
        ({"context_tokens": -1}, ("CONTEXT_TOKENS", "at least 0")),
    ],
)
def test_values_that_exclude_each_other_are_refused(settings, keys):
    with pytest.raises(ValueError) as error:
        InteractionConfig(**settings)
    assert all(key in str(error.value) for key in keys)


def test_coarse_supervision_needs_the_prompter(make_model):
    with pytest.raises(ValueError, match=r"LOSS\.WEIGHTS .*MODEL\.REFERSAM\.PROMPTER is False"):
        make_model(prompter=False, dense_prompt=False)


def test_number_of_interactions_is_limited_by_global_blocks(make_model):
    with pytest.raises(ValueError, match=r"NUM_INTERACTIONS is 5; it has to be from 1 to 4"):
        make_model(num_interactions=5)


def test_without_interactor_the_image_embedding_is_that_of_sam(make_model, scene):
    """The embedding is that of SAM's encoder plus the map at stride 16 without text."""
    images, ids, mask = scene
    model = make_model(interactor=False)
    square = images[:, :, :, :64].repeat(1, 1, 4, 4)  # SAM's own encoder has a fixed size
    with torch.no_grad():
        _, _, features = model.mask_logits(square, ids, mask, returned=["c3", "image_embedding"])
        expected = model.image_encoder(square) + features["c3"]
        _, _, shuffled = model.mask_logits(square, ids.flip(0), mask.flip(0), returned=["c3"])
    torch.testing.assert_close(features["image_embedding"], expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(features["c3"], shuffled["c3"])


def test_without_dense_prompt_the_coarse_mask_has_no_effect_on_sam(make_model, scene):
    model = make_model(dense_prompt=False)
    with torch.no_grad():
        logits, coarse = model.mask_logits(*scene)
        model.prompt_head.mask_embedding[2].bias.add_(1.0)
        repeated, changed = model.mask_logits(*scene)
    assert torch.equal(logits, repeated) and not torch.equal(coarse, changed)


def test_without_context_tokens_there_is_only_text(make_model, scene):
    model = make_model(context_tokens=0)
    with torch.no_grad():
        _, _, features = model.mask_logits(*scene, returned="all")
    assert features["block3_context"].shape == (2, 0, 32)
    assert features["block3_lang"].shape == (2, 5, 32)
