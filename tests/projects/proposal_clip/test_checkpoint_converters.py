"""Checkpoints with the names of the released FC-CLIP and OVSeg."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from hipie.checkpoint.converters.conversion import convert_state

KEYS = "MODEL.PROPOSAL_CLIP"
MASK2FORMER = (
    *(f"{KEYS}.MASKS", "mask2former", "MODEL.HIPIE.STUFF.NUM_HEADS", 8),
    *("MODEL.HIPIE.LOSS.STUFF_COSTS.BOX", 0.0, "MODEL.HIPIE.LOSS.STUFF_COSTS.GIOU", 0.0),
)
HEAD, PREDICTOR, PIXEL = "sem_seg_head.", "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder."


def released_names(width: int, queries: int, encoder: int, decoder: int, hidden: int):
    """Shapes of the released decoder's tensors by name, at small sizes."""
    square, line = (width, width), (width,)

    def linear(name: str, out: int, into: int = width):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str):
        return {f"{name}.weight": line, f"{name}.bias": line}

    shapes = {
        "void_embedding.weight": (1, 48),
        "criterion.empty_weight": (134,),
        f"{PREDICTOR}logit_scale": (),
        f"{PREDICTOR}query_feat.weight": (queries, width),
        f"{PREDICTOR}query_embed.weight": (queries, width),
        f"{PREDICTOR}level_embed.weight": (3, width),
        f"{PIXEL}transformer.level_embed": (3, width),
        f"{PIXEL}adapter_1.weight": (*(width, 24), 1, 1),
        f"{PIXEL}layer_1.weight": (*square, 3, 3),
        f"{PIXEL}mask_features.weight": (*square, 1, 1),
        f"{PIXEL}mask_features.bias": line,
        **norm(f"{PIXEL}adapter_1.norm"),
        **norm(f"{PIXEL}layer_1.norm"),
        **norm(f"{PREDICTOR}decoder_norm"),
        **norm(f"{PREDICTOR}_mask_pooling_proj.0"),
        **linear(f"{PREDICTOR}_mask_pooling_proj.1", width),
    }
    for index, channels in enumerate((64, 48, 32)):
        shapes[f"{PIXEL}input_proj.{index}.0.weight"] = (width, channels, 1, 1)
        shapes[f"{PIXEL}input_proj.{index}.0.bias"] = line
        shapes |= norm(f"{PIXEL}input_proj.{index}.1")
    for index in range(3):
        shapes |= linear(f"{PREDICTOR}mask_embed.layers.{index}", width)
        shapes |= linear(f"{PREDICTOR}class_embed.layers.{index}", 48 if index == 2 else width)
    for index in range(encoder):
        layer = f"{PIXEL}transformer.encoder.layers.{index}"
        shapes |= linear(f"{layer}.self_attn.sampling_offsets", 8 * 3 * 4 * 2)
        shapes |= linear(f"{layer}.self_attn.attention_weights", 8 * 3 * 4)
        shapes |= linear(f"{layer}.self_attn.value_proj", width)
        shapes |= linear(f"{layer}.self_attn.output_proj", width)
        shapes |= linear(f"{layer}.linear1", hidden) | linear(f"{layer}.linear2", width, hidden)
        shapes |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
    for index in range(decoder):
        for kind, module in (("self", "self_attn"), ("cross", "multihead_attn")):
            layer = f"{PREDICTOR}transformer_{kind}_attention_layers.{index}"
            shapes |= linear(f"{layer}.{module}.out_proj", width) | norm(f"{layer}.norm")
            shapes[f"{layer}.{module}.in_proj_weight"] = (3 * width, width)
            shapes[f"{layer}.{module}.in_proj_bias"] = (3 * width,)
        layer = f"{PREDICTOR}transformer_ffn_layers.{index}"
        shapes |= linear(f"{layer}.linear1", hidden) | linear(f"{layer}.linear2", width, hidden)
        shapes |= norm(f"{layer}.norm")
    return shapes


def test_fc_clip_fills_every_tensor(small_cfg):
    model = build_model(small_cfg("fcclip_nano_picturebook.yaml", *MASK2FORMER))
    own = model.state_dict()
    released = {
        name: torch.randn(shape) for name, shape in released_names(32, 10, 1, 2, 32).items()
    } | {
        f"backbone.clip_model.{name.removeprefix('clip_network.')}": value
        for name, value in own.items()
        if name.startswith("clip_network.")
    }
    conversion = convert_state(released, model.checkpoint_converters())
    assert conversion.layout == "FC-CLIP" and conversion.complete
    assert conversion.dropped == ("criterion.empty_weight",)
    assert {k: v.shape for k, v in conversion.state.items()} == {k: v.shape for k, v in own.items()}
    attention = "generator.pixel_decoder.encoder.0.attention."
    offsets = released[f"{PIXEL}transformer.encoder.layers.0.self_attn.sampling_offsets.bias"]
    by_level = conversion.state[f"{attention}sampling_offsets.bias"].view(8, 3, 4, 2)
    torch.testing.assert_close(by_level[:, 0], offsets.view(8, 3, 4, 2)[:, 2])
    weights = released[f"{PIXEL}transformer.encoder.layers.0.self_attn.attention_weights.weight"]
    by_level = conversion.state[f"{attention}attention_weights.weight"].view(8, 3, 4, 32)
    torch.testing.assert_close(by_level[:, 2], weights.view(8, 3, 4, 32)[:, 0])


def test_ovseg_gives_the_tuned_clip_and_its_prompts(small_cfg):
    model = build_model(
        small_cfg(
            "ovseg_nano_picturebook.yaml",
            *(f"{KEYS}.MASKS", "kmeans", f"{KEYS}.MASK_PROMPT_DEPTH", 3),
        )
    )
    own = model.state_dict()
    released = {
        "clip_adapter.non_object_embedding": torch.randn(1, 48),
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
        "clip_adapter.clip_model.visual.mask_embedding": torch.randn(3, 64, 64).half(),
        "backbone.patch_embed.proj.weight": torch.zeros(1),
        "sem_seg_head.predictor.mask_embed.layers.0.weight": torch.zeros(1),
        **{
            f"clip_adapter.clip_model.{k.removeprefix('clip_network.')}": v.half()
            for k, v in own.items()
            if k.startswith("clip_network.")
        },
    }
    conversion = convert_state(released, model.checkpoint_converters())
    assert conversion.layout == "OVSeg" and not conversion.complete
    assert len(conversion.dropped) == 4
    assert {k: (v.shape, v.dtype) for k, v in conversion.state.items()} == {
        k: (v.shape, v.dtype) for k, v in own.items()
    }
    assert model.load_state_dict(conversion.state).missing_keys == []


def test_texts_are_encoded_again_after_weights_are_loaded(small_cfg):
    model = build_model(small_cfg("kmeans_random.yaml"))
    before = model.clip.text_features(["dog"], "one").clone()
    state = model.state_dict()
    state["clip_network.text_projection"] = state["clip_network.text_projection"].flip(1)
    model.load_state_dict(state)
    after = model.clip.text_features(["dog"], "one")
    torch.testing.assert_close(after, before.flip(1))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("name", ["kmeans_random.yaml"])
def test_checkpoints_do_not_include_the_network_of_the_masks(small_cfg, name):
    pytest.importorskip("segment_anything")
    model = build_model(small_cfg(name, f"{KEYS}.MASKS", "sam"))
    assert model.external_weight_prefixes() == ("proposal_network.",)
    kept = {k for k in model.state_dict() if not k.startswith("proposal_network.")}
    assert kept == {k for k in model.state_dict() if k.startswith("clip_network.")}
