"""ReferSAM with CLIP's text encoder, built from its configuration with a small CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hipie import model_zoo
from hipie.checkpoint import load_state

open_clip = pytest.importorskip("open_clip")
CONFIGURATION = (
    Path(__file__).parents[3] / "projects/ReferSAM/configs/refersam_vit_b_refcoco_clip.yaml"
)
NAME = "refersam-test-clip"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Name of a CLIP of one layer with its file, in open_clip's format."""
    folder = tmp_path_factory.mktemp("clip")
    shape = {"width": 32, "layers": 1, "heads": 2}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, **shape},
    }
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(NAME).state_dict(), folder / "clip.pth")
    return f"clip:{NAME}:{folder / 'clip.pth'}"


@pytest.fixture(scope="module")
def build(source):
    """Build the model of the configuration with a small SAM, and further options."""
    from hipie.engine.trainer import Trainer

    def build_model(*options):
        torch.manual_seed(1)
        cfg = model_zoo.get_config(
            str(CONFIGURATION),
            [
                *("MODEL.DEVICE", "cpu", "MODEL.REFERSAM.SAM", "vit_t"),
                *("MODEL.REFERSAM.LOSS.NUM_POINTS", 64),
                *("MODEL.REFERSAM.TEXT.SOURCE", source, *options),
            ],
        )
        return Trainer.build_model(cfg)

    return build_model


@pytest.mark.parametrize("frozen", [True, False])
def test_whole_model_trains_and_predicts(build, item, frozen):
    model = build("MODEL.REFERSAM.TEXT.FROZEN", frozen).train()
    losses = model([item])
    assert len(losses) == 4 and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    trained = {n for n, p in model.text_encoder.named_parameters() if p.grad is not None}
    parameters = {name for name, _ in model.text_encoder.named_parameters()}
    assert trained == (set() if frozen else parameters)
    assert model.interactor.interactions[0].pairs[0].exchange.text_self.q_proj.weight.grad.any()
    assert model.projections.text[0].weight.grad.any() and model.text_encoder.width == 32
    results = model.eval()([item])[0]["referring"]
    assert [result.image_size for result in results] == [(48, 80)] * 3


def test_dense_token_is_the_end_token(build, scene):
    """The expression is summarised by its end token, which sees all others."""
    images, _, _ = scene
    model = build().eval()
    features, mask = model.text_encoder.encode(["a woman in the rain", "a dog"])
    assert model.text_encoder.summary_index(mask).tolist() == [6, 3]
    ids = open_clip.get_tokenizer(NAME)(["a woman in the rain", "a dog"])[:, : mask.shape[1]]
    with torch.no_grad():
        _, _, outputs = model.mask_logits(images, ids, mask, returned="all")
        for block in model.prompter.blocks:  # leave the dense token as it is
            block.forward = lambda tokens, *arguments: tokens
        _, _, unchanged = model.mask_logits(images, ids, mask, returned="all")
    torch.testing.assert_close(outputs["text"], features)
    dense = unchanged["prompt_block1"][:, 0]
    torch.testing.assert_close(dense, unchanged["lang_proj"][[0, 1], [6, 3]])
    assert not torch.equal(dense, unchanged["lang_proj"][:, 0])


def test_checkpoint_restores_the_model(build, item):
    model, other = build().eval(), build("MODEL.REFERSAM.CONTEXT_TOKENS", 16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_state(other, state, "refersam.pth")
    assert not report.missing and not report.unexpected
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name
