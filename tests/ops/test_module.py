from __future__ import annotations

import math

import pytest
import torch

from hipie.ops import MSDeformAttn

SHAPES = torch.tensor([(6, 8), (3, 4)])
STARTS = torch.tensor([0, 48])


def test_has_the_published_parameters():
    shapes = {name: tuple(p.shape) for name, p in MSDeformAttn(256, 4, 8, 4).named_parameters()}
    assert shapes == {
        "sampling_offsets.weight": (256, 256),
        "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 256),
        "attention_weights.bias": (128,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }


def test_initial_offsets_are_rays_with_one_direction_per_head():
    module = MSDeformAttn(32, 2, 8, 3)
    bias = module.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    assert torch.allclose(bias[0, :, :, 0], torch.tensor([1.0, 2.0, 3.0]).expand(2, 3))
    assert torch.allclose(bias[1, 1, 2], torch.tensor([3.0, 3.0]))
    assert torch.allclose(bias.abs().amax(-1), torch.tensor([1.0, 2.0, 3.0]).expand(8, 2, 3))
    assert module.attention_weights.weight.eq(0).all()
    assert module.sampling_offsets.weight.eq(0).all()


def identity(module):
    for layer in (module.value_proj, module.output_proj):
        torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(module.sampling_offsets.bias)
    return module


def test_zero_offsets_sample_the_reference_points():
    module = identity(MSDeformAttn(4, 1, 2, 4))
    value = torch.randn(1, 48, 4)
    reference = torch.tensor([(2.5 / 8, 1.5 / 6)]).view(1, 1, 1, 2)
    output = module(torch.randn(1, 1, 4), reference, value, SHAPES[:1], STARTS[:1])
    assert torch.allclose(output[0, 0], value[0, 8 + 2], atol=1e-5)


def test_offsets_from_points_are_pixels_and_from_boxes_parts_of_the_box():
    module = identity(MSDeformAttn(4, 1, 1, 2))
    with torch.no_grad():
        module.sampling_offsets.bias.copy_(torch.tensor([3.0, -1.0] * 2))
    value, query = torch.randn(1, 48, 4), torch.randn(1, 1, 4)
    point = torch.tensor([1.5 / 8, 3.5 / 6]).view(1, 1, 1, 2)
    output = module(query, point, value, SHAPES[:1], STARTS[:1])
    assert torch.allclose(output[0, 0], value[0, 2 * 8 + 4], atol=1e-5)
    # offset / points * size / 2: 3 / 2 * (2 / 8 * 2) / 2 = 3 / 8, and -1 / 2 * (4 / 6) / 2 = -1 / 6
    box = torch.tensor([1.5 / 8, 3.5 / 6, 4 / 8, 4 / 6]).view(1, 1, 1, 4)
    output = module(query, box, value, SHAPES[:1], STARTS[:1])
    assert torch.allclose(output[0, 0], value[0, 2 * 8 + 4], atol=1e-5)


def test_padding_counts_as_zero():
    torch.manual_seed(0)
    module = MSDeformAttn(16, 2, 4, 4)
    mask = torch.zeros(2, 60, dtype=torch.bool)
    mask[1, 20:] = True
    query, value = torch.randn(2, 5, 16), torch.randn(2, 60, 16)
    reference = torch.rand(2, 5, 2, 2)
    other = torch.where(mask[..., None], math.nan, value)
    output = module(query, reference, value, SHAPES, STARTS, mask)
    assert torch.equal(output, module(query, reference, other, SHAPES, STARTS, mask))
    assert not torch.equal(output, module(query, reference, value, SHAPES, STARTS))


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_value_width_by_ratio(ratio):
    module = MSDeformAttn(32, 2, 4, 4, value_ratio=ratio)
    assert module.value_proj.out_features == module.output_proj.in_features == int(32 * ratio)
    output = module(
        torch.randn(1, 3, 32), torch.rand(1, 3, 2, 4), torch.randn(1, 60, 32), SHAPES, STARTS
    )
    assert output.shape == (1, 3, 32)


def test_trains_under_bfloat16_autocast():
    module = MSDeformAttn(16, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(
            torch.randn(1, 3, 16), torch.rand(1, 3, 2, 2), torch.randn(1, 60, 16), SHAPES, STARTS
        )
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_invalid_widths_and_references_are_rejected():
    with pytest.raises(ValueError, match="value width 10 does not divide by 4 heads"):
        MSDeformAttn(10, 2, 4, 4)
    with pytest.raises(ValueError, match="must end in 2 or 4 numbers"):
        MSDeformAttn(16, 2, 4, 4)(
            torch.randn(1, 3, 16), torch.rand(1, 3, 2, 3), torch.randn(1, 60, 16), SHAPES, STARTS
        )
