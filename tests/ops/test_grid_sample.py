from __future__ import annotations

import pytest
import torch

from hipie.ops import MSDeformAttn, ms_deform_attn
from hipie.ops.grid_sample import ms_deform_attn_grid_sample


def test_means_the_same(make_problem):
    value, shapes, starts, locations, weights = make_problem([(6, 7), (3, 4), (1, 1)])
    output = ms_deform_attn_grid_sample(value, shapes, locations, weights)
    wanted = ms_deform_attn(value, shapes, starts, locations, weights)
    assert torch.allclose(output, wanted, atol=1e-5)


class Attend(torch.nn.Module):
    """Makes the tables of levels from the maps it gets, as models do."""

    def __init__(self):
        super().__init__()
        self.attention = MSDeformAttn(embed_dim=16, num_levels=2, num_heads=2)
        torch.nn.init.normal_(self.attention.sampling_offsets.weight)

    def forward(self, query, reference, fine, coarse):
        maps = (fine, coarse)
        shapes = torch.tensor([[level.shape[2], level.shape[3]] for level in maps])
        areas = shapes.prod(1)
        value = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
        return self.attention(query, reference, value, shapes, areas.cumsum(0) - areas)


def inputs(queries, fine, coarse):
    torch.manual_seed(queries)
    return (
        torch.randn(1, queries, 16),
        torch.rand(1, queries, 2, 2),
        torch.randn(1, 16, *fine),
        torch.randn(1, 16, *coarse),
    )


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_it_runs_in_onnxruntime_at_any_size(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = Attend().eval()
    any_size = torch.export.Dim.DYNAMIC
    file = tmp_path / "attend.onnx"
    torch.onnx.export(
        model,
        inputs(5, (6, 7), (3, 4)),
        file,
        dynamo=True,
        verbose=False,
        dynamic_shapes=(
            {1: any_size},
            {1: any_size},
            {2: any_size, 3: any_size},
            {2: any_size, 3: any_size},
        ),
    )
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(file).graph.node
    assert sum(node.op_type == "GridSample" for node in nodes) == 2
    assert {node.domain for node in nodes} == {""}
    session = runtime.InferenceSession(file)
    names = [argument.name for argument in session.get_inputs()]
    for sizes in ((5, (6, 7), (3, 4)), (9, (8, 5), (2, 6))):
        given = inputs(*sizes)
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        (output,) = session.run(None, feed)
        assert torch.allclose(torch.from_numpy(output), model(*given), atol=1e-5)
