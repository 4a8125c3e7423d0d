"""DINO's loss, head, teacher, crops and export."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_model
from safetensors.torch import load_file
from torch import nn

from hipie.errors import InputError, UsageError
from hipie_unsupervised.__main__ import export_dino, main
from hipie_unsupervised.data.multi_crop import CropConfig, MultiCrop
from hipie_unsupervised.modeling.dino_head import DINOHead
from hipie_unsupervised.modeling.dino_loss import (
    DINOLoss,
    teacher_momentum,
    teacher_temperature,
)
from hipie_unsupervised.modeling.vit import ViTTokens, build_vit, vit_arguments


def batch(count: int = 3, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "global_crops": torch.randint(0, 255, (2, 3, 32, 32), generator=generator),
            "local_crops": torch.randint(0, 255, (2, 3, 16, 16), generator=generator),
        }
        for _ in range(count)
    ]


def test_loss_and_centre_equal_those_of_the_released_program(published):
    generator = torch.Generator().manual_seed(0)
    loss = DINOLoss(32)
    for epoch in range(10):
        student = torch.randn(6, 5, 32, generator=generator)
        teacher = torch.randn(2, 5, 32, generator=generator)
        value = loss(student, teacher, teacher_temperature(epoch, 0.04, 0.07, 4))
        np.testing.assert_allclose(float(value), published[f"dino_{epoch}"], rtol=1e-5)
    np.testing.assert_allclose(loss.center.numpy(), published["dino_center"], atol=1e-6)


def test_loss_is_not_rounded_under_autocast():
    student, teacher = torch.randn(3, 4, 16), torch.randn(2, 4, 16)
    expected = DINOLoss(16)(student, teacher, 0.04)
    head, tokens = DINOHead(6, 9, 8, 5), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DINOLoss(16)(student, teacher, 0.04), expected)
        assert head(tokens).dtype == torch.float32


def test_loss_has_no_gradient_at_the_teacher_and_none_between_equal_views():
    student = torch.randn(2, 4, 8, requires_grad=True)
    teacher = torch.randn(2, 4, 8, requires_grad=True)
    DINOLoss(8)(student, teacher, 0.05).backward()
    assert teacher.grad is None and (student.grad.abs().sum((1, 2)) > 0).all()
    alone = torch.zeros(2, 1, 2)
    alone[0, 0, 0], alone[1, 0, 1] = 4.0, 4.0
    # The two views disagree; if a view were compared with itself, the loss would be lower.
    assert float(DINOLoss(2)(alone, alone, 0.04)) == pytest.approx(40.0, rel=1e-3)


def test_momentum_grows_to_one_and_temperature_to_its_last_value():
    momenta = [teacher_momentum(i, 0.99, 50) for i in range(51)]
    assert momenta[0] == pytest.approx(0.99) and momenta[50] == 1
    assert (np.diff(momenta) > 0).all()
    temperatures = [teacher_temperature(i, 0.04, 0.07, 5) for i in range(7)]
    np.testing.assert_allclose(temperatures, [0.04, 0.0475, 0.055, 0.0625, 0.07, 0.07, 0.07])


def test_head_is_a_layer_with_weight_normalisation():
    head = DINOHead(6, 9, 8, 5)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 9, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(head.prototypes.weight)
    tokens = torch.randn(4, 6)
    expected = last(nn.functional.normalize(head.mlp(tokens), dim=-1))
    torch.testing.assert_close(head(tokens), expected)
    assert float(head(tokens).abs().max()) <= 1 + 1e-6
    head(tokens, fixed_prototypes=True).sum().backward()
    assert head.prototypes.weight.grad is None and head.mlp[0].weight.grad is not None


def test_teacher_follows_the_student(dino_cfg):
    dino_cfg.SOLVER.MAX_ITER = 100
    model = build_model(dino_cfg).train()
    model.losses(batch())["loss_dino"].backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    student, teacher = model.student.head.mlp[0].weight, model.teacher.head.mlp[0].weight
    before = teacher.clone()
    with torch.no_grad():
        student += 1
    model.losses(batch())
    momentum = teacher_momentum(0, dino_cfg.MODEL.UNSUPERVISED.DINO.TEACHER_MOMENTUM, 100)
    torch.testing.assert_close(teacher, momentum * before + (1 - momentum) * student)
    assert int(model.iteration) == 2


def test_student_learns_the_teachers_outputs(dino_cfg):
    model = build_model(dino_cfg).train()
    model.schedule = type(model.schedule)(1000, 1.0, 0.04, 0.04, 0, 0)
    model.loss.center_momentum = 1.0  # as for the teacher: fixed outputs
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model.losses(batch())["loss_dino"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


def test_dino_needs_crops(dino_cfg):
    model = build_model(dino_cfg).train()
    with pytest.raises(InputError, match="trains on the crops of the dataset mapper multi_crop"):
        model.losses([{"image": torch.zeros(3, 32, 32)}])


def test_features_of_an_image(dino_cfg):
    model = build_model(dino_cfg).eval()
    image = torch.randint(0, 255, (3, 30, 50))
    (features,) = model([{"image": image}])
    assert features["tokens"].shape == features["keys"].shape == (24, 4, 7)
    assert features["attention"].shape == (3, 4, 7)
    sums = features["attention"].sum((1, 2))
    assert (sums > 0).all() and (sums < 1).all()
    model.image_format = "BGR"
    (flipped,) = model([{"image": image.flip(0)}])
    torch.testing.assert_close(flipped["tokens"], features["tokens"])


def test_tokens_are_those_of_timm(dino_cfg):
    network = build_vit("vit_small_patch8_224.dino", vit_arguments(dino_cfg)).eval()
    backbone = ViTTokens("vit_small_patch8_224.dino", vit_arguments(dino_cfg)).eval()
    backbone.network.load_state_dict(network.state_dict())
    pixels = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = network.forward_features(pixels)[:, 1:]
        outputs = backbone(pixels)
    torch.testing.assert_close(outputs["tokens"].flatten(2).transpose(1, 2), expected)
    shape = backbone.output_shape()["keys"]
    assert (shape.channels, shape.stride) == (24, 8) and backbone.size_divisibility == 8


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "vit_of_nobody", "has no model 'vit_of_nobody'"),
        ("NAME", "test_efficientnet", "test_efficientnet cannot be built|no vision transformer"),
        ("NUM_HEADS", 7, "cannot be built"),
    ],
)
def test_networks_that_cannot_be_built_are_errors(dino_cfg, key, value, message):
    dino_cfg.MODEL.UNSUPERVISED.VIT[key] = value
    with pytest.raises(InputError, match=message):
        build_model(dino_cfg)


def test_exported_folder_holds_the_teacher(dino_cfg, tmp_path):
    model = build_model(dino_cfg)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.01)
    weights, output = tmp_path / "model.pth", tmp_path / "vit"
    torch.save({"model": model.state_dict()}, weights)
    options = [str(value) for value in _options(dino_cfg)]
    file = "dino_nano_picturebook.yaml"
    arguments = ["--config-file", file, "--weights", str(weights), "--output", str(output)]
    assert main(["export-dino", *arguments, *options]) == 0
    config = json.loads((output / "config.json").read_text())
    network = timm.create_model(
        config["architecture"], num_classes=0, dynamic_img_size=True, **config["model_args"]
    )
    network.load_state_dict(load_file(output / "model.safetensors"))
    pixels = torch.randn(1, 3, 32, 32)
    expected = model.teacher.network.eval()(pixels)
    torch.testing.assert_close(network.eval()(pixels), expected)
    with pytest.raises(UsageError, match="vit exists already; name another one"):
        export_dino(Namespace(output=str(output)))
    training_free = pytest.importorskip("hipie_training_free.modeling.dino")
    loaded = training_free.load_dino(str(output))
    torch.testing.assert_close(loaded(pixels), expected)


def _options(cfg) -> list:
    node = cfg.MODEL.UNSUPERVISED
    return [
        entry
        for name in ("VIT", "DINO")
        for key, value in node[name].items()
        if key != "WEIGHTS"
        for entry in (f"MODEL.UNSUPERVISED.{name}.{key}", value)
    ]


def test_crops_depend_on_the_seed_only():
    image = torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8)
    crops = MultiCrop(CropConfig(32, (0.5, 1.0), 16, (0.05, 0.2), 3))
    state = torch.random.get_rng_state()
    first, second, other = crops(image, 5), crops(image, 5), crops(image, (6, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first[0].shape == (2, 3, 32, 32) and first[1].shape == (3, 3, 16, 16)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_crops_have_their_share_of_the_image():
    """The blue channel is a horizontal ramp: its range is the width of a crop."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256).contiguous()
    crops = MultiCrop(CropConfig(64, (0.9, 1.0), 32, (0.01, 0.02), 8))
    # Colours change the range, but not its order; blur and grey keep a ramp.
    large, small = crops(ramp, 3)
    widths = [int(crop.float().mean((0, 1)).diff().abs().sum()) for crop in (*large, *small)]
    assert min(widths[:2]) > max(widths[2:])


@pytest.mark.parametrize(
    ("key", "value"),
    [("GLOBAL_SCALE", (0.5, 0.2)), ("LOCAL_SCALE", (0.0, 0.2)), ("LOCAL_CROPS", -1)],
)
def test_impossible_crops_are_errors(dino_cfg, key, value):
    dino_cfg.MODEL.UNSUPERVISED.CROPS[key] = value
    with pytest.raises(InputError, match=f"MODEL.UNSUPERVISED.CROPS.{key} is"):
        CropConfig.from_config(dino_cfg)


def test_trains_from_the_command_line(tiny_book, tmp_path):
    from hipie.cli import train
    from tests.projects.unsupervised.conftest import HEAD, VIT

    options = [
        *(*VIT, *HEAD, "MODEL.UNSUPERVISED.CROPS.GLOBAL_SIZE", 32, "SOLVER.IMS_PER_BATCH", 2),
        *("MODEL.UNSUPERVISED.CROPS.LOCAL_SIZE", 16, "MODEL.UNSUPERVISED.CROPS.LOCAL_CROPS", 2),
        *("PICTUREBOOK.ROOT", tiny_book, "PICTUREBOOK.TRAIN_PAGES", 8, "SOLVER.MAX_ITER", 2),
        *("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", tmp_path, "SOLVER.WARMUP_ITERS", 1),
    ]
    arguments = ["--config-file", "dino_nano_picturebook.yaml", *map(str, options)]
    train.run(train.parse_arguments(arguments))
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert int(state["iteration"]) == 2 and float(state["loss.center"].abs().sum()) > 0
