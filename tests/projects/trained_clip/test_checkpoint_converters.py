"""Layouts of the authors' checkpoints: every tensor is mapped to one of the model.

`data/*.txt` has the tensor names of the authors' networks at the depth of the small ones here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hipie.checkpoint import load_weights
from hipie.checkpoint.converters.conversion import convert_state
from hipie_trained_clip import CRIS, ETRIS, ZegCLIP

DATA = Path(__file__).parent / "data"


def published_names(layout: str) -> list[str]:
    return (DATA / f"{layout}.txt").read_text(encoding="utf-8").split()


def own_names(model: torch.nn.Module) -> set[str]:
    return {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("layout", "kind", "clip"),
    [
        ("cris", CRIS, "random:tiny-resnet"),
        ("etris_vit", ETRIS, "random:tiny"),
        ("etris_rn", ETRIS, "random:tiny-resnet"),
    ],
)
def test_published_names_are_those_of_the_model(build, layout, kind, clip):
    state = {name: torch.zeros(()) for name in published_names(layout)}
    conversion = convert_state(state, kind.checkpoint_converters())
    assert conversion.layout == f"official {kind.__name__}" and conversion.dropped == ()
    assert set(conversion.state) == own_names(build(kind.__name__, clip))


def test_published_names_of_zegclip(build):
    state = {name: torch.zeros(()) for name in published_names("zegclip")}
    conversion = convert_state(state, ZegCLIP.checkpoint_converters())
    missing = own_names(build("ZegCLIP")) - set(conversion.state)
    assert set(conversion.state) <= own_names(build("ZegCLIP"))
    # The program does not use the scale of CLIP's cosines, and stores resized positions.
    assert missing == {"backbone.logit_scale", "backbone.visual.positional_embedding"}
    assert "backbone.positional_embedding" in conversion.dropped


def test_a_file_of_the_authors_is_loaded(build, tmp_path):
    """A checkpoint as their programs write it: a wrapped model below `state_dict`."""
    model = build("CRIS")
    (converter,) = CRIS.checkpoint_converters()
    to_own = {
        name: next(iter(converter.convert({name: torch.zeros(())})[0]))
        for name in published_names("cris")
    }
    torch.manual_seed(1)
    values = {
        own: torch.randn_like(value) if value.is_floating_point() else value
        for own, value in model.state_dict().items()
    }
    file = tmp_path / "best_model.pth"
    state = {f"module.{name}": values[own] for name, own in to_own.items()}
    torch.save({"epoch": 50, "best_iou": 0.7, "state_dict": state}, file)
    report = load_weights(model, file)
    assert not report.unexpected and not report.mismatched
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    for own in to_own.values():
        assert torch.equal(model.state_dict()[own], values[own]), own
