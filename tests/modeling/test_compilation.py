"""Compilation of layers: no graph breaks, equal results, and when it does not apply."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from hipie import Vocabulary, model_zoo
from hipie.errors import UnsupportedError
from hipie.modeling.compilation import CompiledFunction, compile_modules
from hipie.modeling.meta_arch.base import SegmentationModel

TINY = Path(__file__).parents[1] / "tiny.yaml"
VOCABULARY = Vocabulary.from_names(things=["car", "dog"], stuff=["grass", "sky"])


def build(precision: str = "float32") -> nn.Module:
    cfg = model_zoo.get_config(str(TINY))
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    model.set_precision(precision)
    return model


def inputs(height: int, width: int) -> list[dict]:
    image = 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    return [{"image": image, "height": height, "width": width, "vocabulary": VOCABULARY}]


def assert_equal_predictions(model: nn.Module, expected: nn.Module, sizes: list) -> None:
    for size in sizes:
        one, other = (m.predict_raw(inputs(*size)) for m in (model, expected))
        for branch in ("things", "stuff"):
            for field in ("boxes", "token_logits", "mask_logits"):
                values = (getattr(getattr(raw, branch), field) for raw in (one, other))
                torch.testing.assert_close(*values, atol=1e-4, rtol=1e-4)


class Counter:
    """Backend of `torch.compile` that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list) -> nn.Module:
        self.graphs += 1
        return graph


def test_compiled_model_gives_the_same_and_new_sizes_compile_once_more():
    torch.compiler.reset()
    counter, model, expected = Counter(), build(), build()
    names = [*model.state_dict()]
    model.compile_inference(counter)
    assert model.is_compiled
    assert [*model.state_dict()] == names
    assert_equal_predictions(model, expected, [(64, 96), (64, 96)])
    first = counter.graphs
    # A backbone; functions of the encoder's and of the decoders' layers, which share their graphs.
    assert first >= 3
    assert_equal_predictions(model, expected, [(96, 128), (128, 160)])
    second = counter.graphs
    assert first < second <= 3 * first
    assert_equal_predictions(model, expected, [(160, 96), (192, 224)])
    assert counter.graphs == second


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_inductors_code_gives_the_same(precision):
    torch.compiler.reset()
    model, expected = build(precision), build(precision)
    model.compile_inference()
    if precision == "float32":
        assert_equal_predictions(model, expected, [(64, 96), (96, 128), (128, 64)])
    else:
        raw = model.predict_raw(inputs(64, 96))
        assert raw.things.boxes.isfinite().all()


def test_gradients_and_copies_use_no_compiled_code():
    counter, layer = Counter(), nn.Linear(2, 3)
    compile_modules([layer, layer], counter)
    assert isinstance(layer.forward, CompiledFunction)
    assert not isinstance(layer.forward.function, CompiledFunction)
    layer(torch.zeros(1, 2)).sum().backward()
    assert counter.graphs == 0
    with torch.no_grad():
        layer(torch.zeros(1, 2))
    assert counter.graphs == 1
    layer.forward.backend = "eager"
    copied = pickle.loads(pickle.dumps(layer))
    assert copied.forward._compiled is None
    copied.weight.data.zero_()
    assert copied(torch.ones(1, 2)).equal(copied.bias[None])
    assert not layer(torch.ones(1, 2)).equal(layer.bias[None])
    deep = copy.deepcopy(layer)
    deep.weight.data.zero_()
    assert deep(torch.ones(1, 2)).equal(deep.bias[None])


def test_architecture_without_layers_is_refused():
    with pytest.raises(UnsupportedError, match="SegmentationModel has no parts that can be comp"):
        SegmentationModel().compile_inference()
