"""Detectron2's checkpointer with safe reading and atomic writing."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from fvcore.common.checkpoint import PeriodicCheckpointer
from torch import nn

from hipie.checkpoint import Checkpointer, CheckpointError, read_state


def trained(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    for _ in range(2):
        model.first(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def test_resumed_run_has_optimizer_and_schedule(make_two, tmp_path):
    model = make_two()
    optimizer, scheduler = trained(model)
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler)
    checkpointer.save("model_0000001", iteration=1)
    other = make_two()
    kept = {"optimizer": torch.optim.AdamW(other.parameters(), 0.5)}
    kept["scheduler"] = torch.optim.lr_scheduler.MultiStepLR(kept["optimizer"], [1, 3])
    rest = Checkpointer(other, str(tmp_path), **kept).resume_or_load("", resume=True)
    assert rest["iteration"] == 1
    assert torch.equal(other.first.weight, model.first.weight)
    assert kept["scheduler"].last_epoch == 2
    assert kept["optimizer"].param_groups[0]["lr"] == pytest.approx(0.01)
    old, new = optimizer.state_dict()["state"], kept["optimizer"].state_dict()["state"]
    assert torch.equal(old[0]["exp_avg"], new[0]["exp_avg"])


def test_only_weights_are_loaded_without_resume(make_two, tmp_path):
    model = make_two()
    optimizer, _ = trained(model)
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("x")
    other = make_two()
    fresh = torch.optim.AdamW(other.parameters())
    Checkpointer(other, str(tmp_path / "new"), optimizer=fresh).resume_or_load(
        str(tmp_path / "x.pth"), resume=False
    )
    assert torch.equal(other.first.weight, model.first.weight)
    assert not fresh.state


def test_empty_path_loads_nothing(two):
    checkpointer = Checkpointer(two)
    assert checkpointer.load("") == {}
    assert checkpointer.report is None


def test_external_weights_are_neither_saved_nor_missing(with_packaged, tmp_path):
    checkpointer = Checkpointer(with_packaged, str(tmp_path))
    checkpointer.save("x")
    assert not any(
        name.startswith("text_encoder") for name in read_state(tmp_path / "x.pth")["model"]
    )
    checkpointer.load(str(tmp_path / "x.pth"))
    assert checkpointer.report.complete


def test_last_checkpoint_names_a_complete_file(two, tmp_path, monkeypatch):
    checkpointer = Checkpointer(two, str(tmp_path))
    checkpointer.save("first")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        with pytest.raises(CheckpointError, match=r"second\.pth.*no space left"):
            checkpointer.save("second")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "first.pth")
    assert [file.name for file in tmp_path.glob("*.pth")] == ["first.pth"]
    checkpointer.save("second")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "second.pth")


def test_periodic_checkpointer_removes_old_files(two, tmp_path):
    periodic = PeriodicCheckpointer(Checkpointer(two, str(tmp_path)), 1, max_iter=4, max_to_keep=2)
    for iteration in range(4):
        periodic.step(iteration)
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == [
        "model_0000002.pth",
        "model_0000003.pth",
        "model_final.pth",
    ]


def test_missing_last_checkpoint_is_an_error(two, tmp_path):
    checkpointer = Checkpointer(two, str(tmp_path))
    checkpointer.save("gone")
    (tmp_path / "gone.pth").unlink()
    with pytest.raises(CheckpointError, match=r"gone\.pth: there is no such file"):
        checkpointer.resume_or_load("", resume=True)


def test_load_works_after_refused_files(two, tmp_path, traps):
    checkpointer = Checkpointer(two, str(tmp_path))
    checkpointer.save("good")
    files, owned = traps
    for file in files:
        with pytest.raises(CheckpointError, match="refused"):
            checkpointer.load(str(file))
    assert not owned.exists()
    checkpointer.load(str(tmp_path / "good.pth"))
    assert checkpointer.report.complete


def test_incomplete_load_logs_a_warning(make_two, tmp_path, caplog):
    state = make_two().state_dict()
    del state["last.bias"]
    torch.save(state, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO, "hipie.checkpoint"):
        Checkpointer(make_two()).load(str(tmp_path / "x.pth"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "last.bias" in caplog.text


class WithBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        cfg = get_cfg()
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize("source", ["zoo", "query"])
def test_model_zoo_backbone_is_matched_by_suffix(tmp_path, source):
    model = WithBackbone()
    state = {
        name: np.full(value.shape, 0.25, "f4")
        for name, value in model.backbone.state_dict().items()
    }
    state["fc.weight"] = np.zeros((10, 8), "f4")
    if source == "zoo":
        path = tmp_path / "R-18.pkl"
        content = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
        given = str(path)
    else:
        path = tmp_path / "R-18.pth"
        torch.save({name: torch.from_numpy(value) for name, value in state.items()}, path)
        given = f"{path}?matching_heuristics=True"
    checkpointer = Checkpointer(model)
    checkpointer.load(given)
    assert checkpointer.report.unexpected == ("fc.weight",)
    assert checkpointer.report.missing == ("head.weight", "head.bias")
    assert model.backbone.stem.conv1.weight.unique().tolist() == [0.25]


def test_unknown_option_is_an_error(two, tmp_path):
    with pytest.raises(CheckpointError, match='the option "magic" is unknown'):
        Checkpointer(two).load(f"{tmp_path}/x.pth?magic=1")


@pytest.mark.parametrize("broken", ["optimizer", "model"])
def test_refused_resume_changes_nothing(make_two, tmp_path, broken):
    model = make_two()
    optimizer = torch.optim.AdamW(model.parameters())
    model.last(model.first(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    content = {"model": make_two().state_dict(), "optimizer": optimizer.state_dict()}
    if broken == "optimizer":
        content["optimizer"] = {"state": {}, "param_groups": [{"params": [0]}]}
    else:
        content["model"] = make_two(width=7).state_dict()
        content["optimizer"]["param_groups"][0]["lr"] = 7.0
    torch.save(content, tmp_path / "x.pth")
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(CheckpointError) as caught:
        Checkpointer(model, optimizer=optimizer).load(str(tmp_path / "x.pth"))
    assert str(caught.value).startswith(f"{tmp_path / 'x.pth'}: ")
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    for key, value in state["state"][0].items():
        assert torch.equal(optimizer.state_dict()["state"][0][key], value)


def test_averaged_weights_by_option(make_two, tmp_path):
    plain, averaged = make_two(), make_two()
    torch.save(
        {"model": plain.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "x.pth"
    )
    model = make_two()
    Checkpointer(model).load(f"{tmp_path / 'x.pth'}?ema=True")
    assert torch.equal(model.last.weight, averaged.last.weight)


def test_exclude_applies_to_the_start_of_a_training_only(make_two, tmp_path):
    one, other = make_two(), make_two()
    Checkpointer(one, str(tmp_path)).save("x")
    checkpointer = Checkpointer(other, other_part=torch.optim.SGD(other.parameters(), lr=1))
    checkpointer.exclude = ("last",)
    before = other.last.weight.clone()
    checkpointer.load(str(tmp_path / "x.pth"), checkpointables=[])
    assert torch.equal(other.first.weight, one.first.weight)
    assert torch.equal(other.last.weight, before)
    checkpointer.load(str(tmp_path / "x.pth"))
    assert torch.equal(other.last.weight, one.last.weight)
