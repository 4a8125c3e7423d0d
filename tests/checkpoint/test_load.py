"""Loading of weights into models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hipie.checkpoint import CheckpointError, LoadReport, load_state, load_weights, save_weights


def test_equal_model_loads_every_tensor(make_two, tmp_path):
    one, other = make_two(), make_two()
    save_weights(one, tmp_path / "x.safetensors", half=False)
    report = load_weights(other, tmp_path / "x.safetensors")
    assert report.complete
    assert report.loaded == len(one.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_half_precision_weights_take_the_models_precision(make_two, tmp_path):
    one, other = make_two(), make_two()
    save_weights(one, tmp_path / "x.safetensors")
    load_weights(other, tmp_path / "x.safetensors")
    assert other.first.weight.dtype == torch.float32
    assert torch.equal(other.first.weight, one.first.weight.half().float())


def test_missing_tensors_are_reported_and_left_as_built(make_two):
    state = make_two().state_dict()
    del state["last.weight"], state["last.bias"]
    model = make_two()
    before = model.last.weight.clone()
    report = load_state(model, state, "x.pth")
    assert report.missing == ("last.weight", "last.bias")
    assert torch.equal(model.last.weight, before)


def test_unexpected_tensors_are_reported(make_two):
    state = {**make_two().state_dict(), "video.head": torch.ones(3)}
    report = load_state(make_two(), state, "x.pth")
    assert report.unexpected == ("video.head",)
    assert not report.missing


def test_weights_of_another_model_are_a_one_line_error(make_two):
    model = make_two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_state(model, make_two(width=7).state_dict(), "other.pth")
    assert str(caught.value) == (
        "other.pth: these are weights of another model than this TwoLayers: 1 of 9 tensors do not "
        'fit, the first is "first.weight" (it is 4x7 in the file and 4x3 in the model)'
    )
    with pytest.raises(CheckpointError, match=r'13 of 13.*"0\.weight" \(the model has no such'):
        load_state(
            model, nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)), nn.PReLU()).state_dict(), "o"
        )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "a refused file must change nothing"


def test_no_fitting_tensor_is_an_error(make_two):
    with pytest.raises(CheckpointError, match="none of its tensors is for this TwoLayers"):
        load_state(make_two(), {}, "x.pth")
    with pytest.raises(CheckpointError, match="another model"):
        load_state(make_two(), {"x": torch.ones(1)}, "x.pth", in_part=True)


def test_one_misfit_among_hundreds_is_reported():
    model = nn.ModuleList(nn.Linear(1, 1) for _ in range(100))
    state = model.state_dict()
    state["0.weight"] = torch.ones(2, 2)
    report = load_state(model, state, "x")
    assert report.mismatched == ("0.weight",)
    assert report.missing == ("0.weight",)
    state["1.weight"] = state["2.weight"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError, match="3 of 200"):
        load_state(model, state, "x")


def test_backbone_with_another_head_is_loaded_in_part(make_two):
    state = {"first.weight": torch.zeros(4, 3), "fc.weight": torch.ones(9, 9)}
    model = make_two()
    with pytest.raises(CheckpointError):
        load_state(model, state, "x")
    assert load_state(model, state, "x", in_part=True).loaded == 1
    assert not model.first.weight.any()


def test_external_weights_are_not_missing(with_packaged, make_two):
    report = load_state(with_packaged, make_two().state_dict(), "x")
    assert report.complete


def test_external_weights_in_a_file_are_loaded(with_packaged):
    state = {name: torch.zeros_like(v) for name, v in with_packaged.state_dict().items()}
    load_state(with_packaged, state, "x")
    assert not with_packaged.text_encoder.weight.any()


def test_second_name_of_a_loaded_tensor_is_not_missing(make_two):
    model = make_two()
    model.again = model.first
    report = load_state(model, make_two().state_dict(), "x")
    assert report.complete


def test_prefix_of_distributed_training_is_removed(make_two):
    state = {f"module.{name}": value for name, value in make_two().state_dict().items()}
    assert load_state(make_two(), state, "x").complete


def test_complete_report_is_short():
    report = LoadReport(loaded=12, dropped=("video.a",))
    assert report.complete
    assert str(report) == "12 tensors loaded; 1 left out on purpose (video.a)"


def test_incomplete_report_lists_three_names():
    report = LoadReport(
        missing=("a", "b", "c", "d"), unexpected=("x",), mismatched=("y",), loaded=3
    )
    assert not report.complete
    assert str(report) == (
        "3 tensors loaded; 4 not in the file, left as built (a, b, c, ...); "
        "1 not in the model, ignored (x); 1 of another shape, ignored (y)"
    )


def test_importing_grser_does_not_change_how_other_models_load():
    import grser  # noqa: F401  its converters recognise Swin's names

    model = nn.ModuleDict(
        {
            "patch_embed": nn.ModuleDict({"proj": nn.Linear(2, 2)}),
            "layers": nn.ModuleList([nn.ModuleDict({"blocks": nn.ModuleList([AttentionBlock()])})]),
        }
    )
    state = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    assert {"patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"} <= set(state)
    report = load_state(model, state, "swin.pth")
    assert report.complete and report.dropped == ()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class AttentionBlock(nn.Module):
    """Module with the parameter names of Swin's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(2, 6)})


def test_excluded_modules_are_left_as_built_and_counted(make_two):
    old, new = make_two(width=7), make_two()
    before = new.norm.weight.clone()
    nn.init.normal_(old.norm.weight)
    report = load_state(new, old.state_dict(), "x.pth", exclude=("norm.",))
    assert report.excluded == tuple(name for name in old.state_dict() if name.startswith("norm."))
    assert report.mismatched == ("first.weight",)
    assert report.modules == (("first", 1, 2), ("norm", 0, 5), ("last", 2, 2))
    assert "first: 1 of 2, norm: 0 of 5, last: 2 of 2" in str(report)
    assert torch.equal(new.norm.weight, before)
    assert torch.equal(new.last.weight, old.last.weight)


def test_patterns_exclude_by_name(make_two):
    report = load_state(make_two(), make_two().state_dict(), "x.pth", exclude=("*.bias",))
    assert report.excluded == ("first.bias", "norm.bias", "last.bias")
    with pytest.raises(CheckpointError, match='"backbone" excludes nothing; .* first, last, norm'):
        load_state(make_two(), make_two().state_dict(), "x.pth", exclude=("backbone",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_reported(make_two, value, dtype):
    state = {name: tensor.clone() for name, tensor in make_two().state_dict().items()}
    state["last.bias"] = torch.tensor([0.0, value], dtype=dtype)
    report = load_state(make_two(), state, "x.pth")
    assert report.not_finite == ("last.bias",)
    assert not report.complete


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "model.module.{}", "net.{}"])
def test_wrapped_names_are_loaded(make_two, wrap):
    one, other = make_two(), make_two()
    state = {wrap.format(name): value for name, value in one.state_dict().items()}
    assert load_state(other, {**state, "n_averaged": torch.tensor(1)}, "x.pth").missing == ()
    assert torch.equal(other.last.weight, one.last.weight)
