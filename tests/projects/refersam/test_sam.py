"""SAM's parts against SAM's own code: names, encoder at any shape, decoder."""

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


def released(name: str) -> dict[str, torch.Tensor]:
    """What a file that SAM's authors released holds: names and shapes, no numbers."""
    with torch.device("meta"):
        return segment_anything.sam_model_registry[name]().state_dict()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_released_files_have_exactly_our_three_parts(name):
    from tests.projects.refersam.test_checkpoint_converters import without_memory

    own = without_memory(name).state_dict()
    ours = {key: value.shape for key, value in own.items() if key.startswith(PARTS)}
    assert {key: value.shape for key, value in released(name).items()} == ours


def test_a_released_file_of_another_type_is_refused(make_model):
    state = {key: torch.zeros(v.shape) for key, v in released("vit_b").items() if "blocks.1" in key}
    with pytest.raises(CheckpointError, match="sam_vit_b.pth.*another model.*there and"):
        load_state(make_model(), state, "sam_vit_b.pth")


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (4, 6), (10, 3)])
def test_encoder_is_sams_at_any_shape(model, rows, columns):
    """SAM's own forward pass, given a table of positions of the size it wants."""
    encoder = model.image_encoder
    images = torch.randn(2, 3, 16 * rows, 16 * columns)
    table = F.interpolate(encoder.pos_embed.permute(0, 3, 1, 2), (rows, columns), mode="bilinear")
    own = build_image_encoder(VARIANTS["vit_t"])
    own.load_state_dict(encoder.state_dict())
    own.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1))
    with torch.no_grad():
        patches = add_position_embedding(encoder, encoder.patch_embed(images))
        for block in encoder.blocks:
            patches = block(patches)
        found = encoder.neck(patches.permute(0, 3, 1, 2))
        wanted = own(images)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_decoder_is_sams_for_every_image_of_a_batch(model):
    decoder, width = model.mask_decoder, 256
    image, dense = torch.randn(2, width, 4, 6), torch.randn(2, width, 4, 6)
    sparse, grid = torch.randn(2, 4, width), torch.randn(1, width, 4, 6)
    with torch.no_grad():
        found, token = decode_masks(decoder, image, grid, sparse, dense)
        for b in range(2):
            one = slice(b, b + 1)
            wanted, quality = decoder(image[one], grid, sparse[one], dense[one], False)
            torch.testing.assert_close(found[one], wanted, atol=1e-4, rtol=1e-4)
            mine = decoder.iou_prediction_head(token[one])[:, :1]
            torch.testing.assert_close(mine, quality, atol=1e-4, rtol=1e-4)
