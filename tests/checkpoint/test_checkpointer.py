"""Detectron2's checkpointer, safe and whole."""

from __future__ import annotations

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


def test_a_run_goes_on_where_it_was(make_two, tmp_path):
    model = make_two()
    optimizer, scheduler = trained(model)
    keeper = Checkpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler)
    keeper.save("model_0000001", iteration=1)
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


def test_weights_alone_when_not_resumed(make_two, tmp_path):
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


def test_no_path_loads_nothing(two):
    keeper = Checkpointer(two)
    assert keeper.load("") == {}
    assert keeper.report is None


def test_packaged_weights_are_left_out_and_not_missed(with_packaged, tmp_path):
    keeper = Checkpointer(with_packaged, str(tmp_path))
    keeper.save("x")
    assert not any(
        name.startswith("text_encoder") for name in read_state(tmp_path / "x.pth")["model"]
    )
    keeper.load(str(tmp_path / "x.pth"))
    assert keeper.report.complete


def test_the_note_of_the_last_checkpoint_follows_the_file(two, tmp_path, monkeypatch):
    keeper = Checkpointer(two, str(tmp_path))
    keeper.save("first")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        with pytest.raises(CheckpointError, match=r"second\.pth.*No space left"):
            keeper.save("second")
    assert keeper.get_checkpoint_file() == str(tmp_path / "first.pth")
    assert [file.name for file in tmp_path.glob("*.pth")] == ["first.pth"]
    keeper.save("second")
    assert keeper.get_checkpoint_file() == str(tmp_path / "second.pth")


def test_old_checkpoints_are_removed_by_the_periodic_one(two, tmp_path):
    periodic = PeriodicCheckpointer(Checkpointer(two, str(tmp_path)), 1, max_iter=4, max_to_keep=2)
    for iteration in range(4):
        periodic.step(iteration)
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == [
        "model_0000002.pth",
        "model_0000003.pth",
        "model_final.pth",
    ]


def test_a_noted_checkpoint_that_is_gone_is_named(two, tmp_path):
    keeper = Checkpointer(two, str(tmp_path))
    keeper.save("gone")
    (tmp_path / "gone.pth").unlink()
    with pytest.raises(CheckpointError, match=r"gone\.pth: there is no such file"):
        keeper.resume_or_load("", resume=True)


def test_bad_files_are_named_and_the_next_load_works(two, tmp_path, traps):
    keeper = Checkpointer(two, str(tmp_path))
    keeper.save("good")
    files, owned = traps
    for file in files:
        with pytest.raises(CheckpointError, match="refused"):
            keeper.load(str(file))
    assert not owned.exists()
    keeper.load(str(tmp_path / "good.pth"))
    assert keeper.report.complete


def test_an_incomplete_load_is_a_warning(make_two, tmp_path, caplog):
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


@pytest.mark.parametrize("way", ["zoo", "query"])
def test_a_backbone_of_the_model_zoo_finds_its_place(tmp_path, way):
    model = WithBackbone()
    state = {
        name: np.full(value.shape, 0.25, "f4")
        for name, value in model.backbone.state_dict().items()
    }
    state["fc.weight"] = np.zeros((10, 8), "f4")
    if way == "zoo":
        path = tmp_path / "R-18.pkl"
        content = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
        asked = str(path)
    else:
        path = tmp_path / "R-18.pth"
        torch.save({name: torch.from_numpy(value) for name, value in state.items()}, path)
        asked = f"{path}?matching_heuristics=True"
    keeper = Checkpointer(model)
    keeper.load(asked)
    assert keeper.report.unexpected == ("fc.weight",)
    assert keeper.report.missing == ("head.weight", "head.bias")
    assert model.backbone.stem.conv1.weight.unique().tolist() == [0.25]


def test_an_unknown_option_is_named(two, tmp_path):
    with pytest.raises(CheckpointError, match='the option "magic" is not known'):
        Checkpointer(two).load(f"{tmp_path}/x.pth?magic=1")
