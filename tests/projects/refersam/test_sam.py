"""SAM's modules against SAM's own code: names, encoder at any shape, decoder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hipie.checkpoint import CheckpointError, load_state
from refersam.modeling.sam import (
    VARIANTS,
    add_position_embedding,
    build_image_encoder,
    decode_masks,
)

segment_anything = pytest.importorskip("segment_anything")
PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


def released_state(name: str) -> dict[str, torch.Tensor]:
    """State dict of a file of SAM's authors on the meta device."""
    with torch.device("meta"):
        return segment_anything.sam_model_registry[name]().state_dict()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_released_files_have_exactly_the_three_modules(name):
    from tests.projects.refersam.test_checkpoint_converters import build_on_meta_device

    expected = build_on_meta_device(name).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if key.startswith(PARTS)}
    assert {key: value.shape for key, value in released_state(name).items()} == shapes


def test_released_file_of_another_type_is_rejected(make_model):
    state = {
        key: torch.zeros(v.shape) for key, v in released_state("vit_b").items() if "blocks.1" in key
    }
    with pytest.raises(CheckpointError, match="sam_vit_b.pth.*another model than this ReferSAM"):
        load_state(make_model(), state, "sam_vit_b.pth")


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (4, 6), (10, 3)])
def test_encoder_equals_sam_for_any_shape(model, rows, columns):
    """SAM's own forward pass has a position embedding of the right size."""
    encoder = model.image_encoder
    images = torch.randn(2, 3, 16 * rows, 16 * columns)
    embedding = F.interpolate(
        encoder.pos_embed.permute(0, 3, 1, 2), (rows, columns), mode="bilinear"
    )
    expected = build_image_encoder(VARIANTS["vit_t"])
    expected.load_state_dict(encoder.state_dict())
    expected.pos_embed = nn.Parameter(embedding.permute(0, 2, 3, 1))
    with torch.no_grad():
        patches = add_position_embedding(encoder, encoder.patch_embed(images))
        for block in encoder.blocks:
            patches = block(patches)
        actual = encoder.neck(patches.permute(0, 3, 1, 2))
        reference = expected(images)
    torch.testing.assert_close(actual, reference, atol=1e-4, rtol=1e-4)


def test_batched_decoder_equals_sam(model):
    decoder, width = model.mask_decoder, 256
    image, dense = torch.randn(2, width, 4, 6), torch.randn(2, width, 4, 6)
    sparse, grid = torch.randn(2, 4, width), torch.randn(1, width, 4, 6)
    with torch.no_grad():
        actual, token = decode_masks(decoder, image, grid, sparse, dense)
        for b in range(2):
            row = slice(b, b + 1)
            reference, reference_iou = decoder(image[row], grid, sparse[row], dense[row], False)
            torch.testing.assert_close(actual[row], reference, atol=1e-4, rtol=1e-4)
            iou = decoder.iou_prediction_head(token[row])[:, :1]
            torch.testing.assert_close(iou, reference_iou, atol=1e-4, rtol=1e-4)
