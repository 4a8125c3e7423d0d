"""How often a training step waits for the device, on a simulated one."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from tests.modeling.meta_arch.test_hipie import randomise_zero_heads, training_input
from tests.simulated_device import DEVICE, DeviceTensor, SimulatedDevice, to_device

MOST = 5


def batch(task: str) -> list[dict]:
    """Two images with objects: things and stuff, or the objects of two expressions each."""
    return [training_input(task, 0), training_input(task, 1, [0, 2])]


@pytest.mark.parametrize("trained_text", [False, True])
def test_a_training_step_of_hipie_waits_a_few_times_only(tiny_cfg, trained_text):
    """Things, stuff, parts, expressions, denoising and all losses, forward and backward."""
    tiny_cfg.MODEL.HIPIE.TEXT.FROZEN = not trained_text
    model = randomise_zero_heads(build_model(tiny_cfg)).train()
    expected = {}
    for task in ("detection", "parts", "referring"):
        torch.manual_seed(1)
        expected[task] = model(batch(task))
    to_device(model)
    for task, losses_on_cpu in expected.items():
        torch.manual_seed(1)
        with SimulatedDevice() as device:
            losses = model(batch(task))
            assert 1 <= sum(device.waits.values()) <= MOST, f"{task}:\n{device.report()}"
            device.reset()
            torch.stack(list(losses.values())).sum().backward()
            assert not device.waits, f"backward of {task}:\n{device.report()}"
        assert losses.keys() == losses_on_cpu.keys()
        for name, loss in losses.items():
            assert loss.device == DEVICE
            torch.testing.assert_close(loss.inner, losses_on_cpu[name], msg=name)
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(grads) > 100 and all(isinstance(grad, DeviceTensor) for grad in grads)


def test_published_backbones_do_not_wait(tiny_published):
    """ResNet-50 and ViT-H, also with frames of boxes and trained text as published."""
    model = to_device(tiny_published.train())
    with SimulatedDevice() as device:
        model(batch("detection"))
        assert 1 <= sum(device.waits.values()) <= MOST, device.report()


def test_the_number_of_waits_does_not_grow_with_layers_and_images(tiny_cfg):
    counts = []
    for layers, images in ((1, 2), (3, 4)):
        tiny_cfg.MODEL.HIPIE.THINGS.DECODER_LAYERS = layers
        tiny_cfg.MODEL.HIPIE.STUFF.DECODER_LAYERS = layers
        model = to_device(build_model(tiny_cfg).train())
        with SimulatedDevice() as device:
            model([training_input("detection", i) for i in range(images)])
        counts.append(sum(device.waits.values()))
    assert counts[0] == counts[1]
