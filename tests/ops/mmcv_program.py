"""Run mmcv's own layer with and without the operator; a program of `test_patching.py`.

Prints the largest relative difference of outputs and gradients, in float64.
"""

from __future__ import annotations

import torch

import hipie.ops


def results(layer, call):
    layer.zero_grad()
    inputs = {key: tensor.clone().requires_grad_() for key, tensor in call["inputs"].items()}
    output = layer(**inputs, **call["geometry"])
    output.square().mean().backward()
    gradients = [tensor.grad for tensor in (*inputs.values(), *layer.parameters())]
    return [output.detach(), *gradients]


def main():
    handle = hipie.ops.patch("mmcv")
    from mmcv.ops import multi_scale_deform_attn as client

    fallback = client.multi_scale_deformable_attn_pytorch.__wrapped__
    assert "mmcv._ext" in handle.served, str(handle)
    torch.manual_seed(0)
    layer = client.MultiScaleDeformableAttention(
        embed_dims=16, num_heads=2, num_levels=2, num_points=3, batch_first=True, dropout=0.0
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shapes = torch.tensor([(5, 6), (3, 2)])
    areas = shapes.prod(1)
    starts = areas.cumsum(0) - areas
    call = {
        "inputs": {
            "query": torch.randn((2, 7, 16), dtype=torch.float64),
            "value": torch.randn((2, 36, 16), dtype=torch.float64),
        },
        "geometry": {
            "reference_points": torch.rand((2, 7, 2, 2), dtype=torch.float64),
            "spatial_shapes": shapes,
            "level_start_index": starts,
        },
    }
    patched = results(layer, call)

    # The function of tensors on a GPU: the extension's functions, and gradients written in place.
    arguments = [
        torch.rand((2, 36, 2, 8), dtype=torch.float64),
        torch.rand((2, 7, 2, 2, 3, 2), dtype=torch.float64) * 1.4 - 0.2,
        torch.rand((2, 7, 2, 2, 3), dtype=torch.float64),
    ]
    outcomes = []
    for function in (
        lambda value, *rest: client.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, *rest, 64
        ),
        lambda value, *rest: fallback(value, shapes, *rest),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in arguments]
        output = function(*leaves)
        output.square().mean().backward()
        outcomes.append([output.detach(), *(leaf.grad for leaf in leaves)])

    try:
        client.ext_module.nms()
    except NotImplementedError as error:
        assert "mmcv._ext.nms" in str(error)
    else:
        raise AssertionError("an operator that is missing has to raise an error")

    handle.undo()
    assert client.multi_scale_deformable_attn_pytorch is fallback
    plain = results(layer, call)
    pairs = [*zip(plain, patched, strict=True), *zip(*outcomes, strict=True)]
    print(max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs))


if __name__ == "__main__":
    main()
