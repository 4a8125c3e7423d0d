"""Operators and waiting of postprocessing one image of 480 x 640 pixels, on a simulated device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hipie.modeling import chunking
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead
from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead
from hipie.modeling.postprocessing.part_inference import enforce_part_consistency
from hipie.modeling.postprocessing.part_panoptic import part_owners
from hipie.modeling.postprocessing.universal_inference import (
    InferenceSettings,
    universal_inference,
)
from hipie.structures import ImageQueries, LayerOutput
from tests.simulated_device import DEVICE, DeviceTensor, SimulatedDevice, to_device

SIZE = (480, 640)
NUM_THINGS, NUM_STUFF, WHOLES, PARTS_PER_WHOLE = 24, 12, 10, 3
NUM_CLASSES = NUM_THINGS + NUM_STUFF + WHOLES * PARTS_PER_WHOLE
NAMES = [f"class {k}" for k in range(NUM_CLASSES)]
# Things and stuff alternate at first; parts come last.
IS_THING = [k % 2 == 0 or k >= 2 * NUM_STUFF for k in range(len(NAMES))]
OF_WHOLES: list[str | None] = [None] * (NUM_THINGS + NUM_STUFF)
OF_WHOLES += [NAMES[2 * whole] for whole in range(WHOLES) for _ in range(PARTS_PER_WHOLE)]
MAX_OPERATORS, MAX_WAITS = 600, 5


class CountedOperators(TorchDispatchMode):
    """Counts every operator, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[str(func)] += 1
        return func(*args, **(kwargs or {}))


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest memory behind the result of any operator."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


def make_queries(num_queries: int, *, things: bool) -> ImageQueries:
    """Predictions of a decoder of HIPIE; twenty queries have one class of high probability."""
    generator = torch.Generator().manual_seed(num_queries)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    height, width = SIZE[0] // 8, SIZE[1] // 8
    logits = randn(1, num_queries, len(NAMES)) - 7
    certain = torch.arange(20) * (num_queries // 20)
    logits[0, certain, torch.randint(len(NAMES), (20,), generator=generator)] = 5.0
    layer = LayerOutput(
        boxes=torch.rand(1, num_queries, 4, generator=generator) * 0.5 + 0.2,
        logits=logits,
        mask_embeddings=randn(1, num_queries, 64),
        mask_centers=torch.rand(1, num_queries, 2, generator=generator) * 480,
        iou_logits=randn(1, num_queries, 1) if things else None,
    )
    if not things:
        features = randn(64, 2 * height, 2 * width)
        return ImageQueries(layer, MaskEmbeddingHead(), (features,))
    torch.manual_seed(0)
    return ImageQueries(layer, DynamicMaskHead(64), (randn(8, height, width),))


def on_device(queries: ImageQueries) -> ImageQueries:
    """The same predictions on the simulated device."""
    tensors = {
        name: value if value is None else DeviceTensor(value)
        for name, value in vars(queries.layer).items()
    }
    head = queries.mask_head
    return ImageQueries(
        replace(queries.layer, **tensors),
        to_device(head) if isinstance(head, torch.nn.Module) else head,
        tuple(DeviceTensor(features) for features in queries.mask_features),
    )


def run(
    things: ImageQueries, stuff: ImageQueries, output_size: tuple[int, int] = SIZE, **settings: Any
) -> dict[str, Any]:
    with torch.no_grad():
        return universal_inference(
            things,
            stuff,
            token_spans=[(k,) for k in range(len(NAMES))],
            is_thing=IS_THING,
            input_size=SIZE,
            output_size=output_size,
            settings=InferenceSettings(overlap_threshold=0.02, **settings),
            owners=part_owners(NAMES, OF_WHOLES),
            enforce_consistency=lambda scores: enforce_part_consistency(scores, NAMES, OF_WHOLES),
        )


def assert_equal_results(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result.keys() == expected.keys()

    def values(item: Any) -> list[Any]:
        if hasattr(item, "pred_masks"):
            fields = item.get_fields()
            return [fields.pop("pred_boxes").tensor, *fields.values()]
        return list(vars(item).values()) if hasattr(item, "totals") else [item]

    for name, item in expected.items():
        if name == "panoptic_seg":
            assert torch.equal(result[name][0].cpu(), item[0]) and len(item[1]) > 1
            assert result[name][1] == item[1]
            continue
        for value, other in zip(values(result[name]), values(item), strict=True):
            torch.testing.assert_close(value.cpu(), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels_only", [False, True])
def test_an_accelerator_launches_few_operators_and_is_awaited_rarely(labels_only: bool) -> None:
    things, stuff = make_queries(60, things=True), make_queries(20, things=False)
    expected = run(things, stuff, semantic_labels_only=labels_only)
    assert (expected["part_seg"] > 0).any()
    with SimulatedDevice() as device:
        result = run(on_device(things), on_device(stuff), semantic_labels_only=labels_only)
    assert result["instances"].pred_masks.device == DEVICE
    assert device.operators.total() <= MAX_OPERATORS, device.operators.most_common()
    assert device.waits.total() <= MAX_WAITS, device.report()
    with SimulatedDevice():
        assert_equal_results(result, expected)


@pytest.mark.slow
def test_an_accelerator_with_all_queries_of_the_published_models() -> None:
    """900 thing queries and 300 stuff queries are processed in few bands."""
    things, stuff = make_queries(900, things=True), make_queries(300, things=False)
    with SimulatedDevice() as device:
        run(on_device(things), on_device(stuff))
    assert device.operators.total() <= MAX_OPERATORS, device.operators.most_common()
    assert device.waits.total() <= MAX_WAITS, device.report()


def test_a_cpu_with_the_queries_of_a_small_model() -> None:
    """Bands for the processor's cache still take few operators."""
    things, stuff = make_queries(60, things=True), make_queries(20, things=False)
    with CountedOperators() as counted:
        run(things, stuff)
    assert counted.operators.total() <= MAX_OPERATORS, counted.operators.most_common()


def test_no_tensor_of_all_classes_is_larger_than_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more classes than queries the scores of a band are larger than its masks."""
    monkeypatch.setattr(chunking, "CPU_MASK_BYTES", 8 * 2**20)
    things, stuff = make_queries(20, things=True), make_queries(20, things=False)
    with LargestTensor() as largest:
        run(things, stuff, semantic_labels_only=True, instance_on=False, panoptic_on=False)
    assert largest.bytes <= 8 * 2**20
