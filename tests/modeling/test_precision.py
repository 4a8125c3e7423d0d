"""Precision of inference: names, weights that are cast once, results close to float32."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hipie import Segmenter
from hipie.errors import HipieError, InputError
from hipie.modeling import precision
from hipie.modeling.precision import cast_weights, computes_bfloat16, resolve_precision

NANO = "nano/hipie_nano_picturebook.yaml"
IMAGE = Path(__file__).parents[2] / "hipie/examples/photographs/citrus.jpg"
THINGS, STUFF = ["house", "car", "tree", "person"], ["grass", "sky", "road"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exact() -> Segmenter:
    return Segmenter.from_config(NANO, device="cpu")


@pytest.fixture(scope="module")
def reduced() -> Segmenter:
    return Segmenter.from_config(NANO, device="cpu", precision="bfloat16")


def test_auto_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, expected in (({"avx512_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert resolve_precision("auto", CPU) == expected
        assert computes_bfloat16(CPU) == (expected == "bfloat16")
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    assert set(precision.PRECISIONS) == {"float32", "bfloat16", "int8", "auto"}
    with pytest.raises(InputError, match="MODEL.PRECISION is 'half'; it has to be float32, bfl"):
        resolve_precision("half", CPU)


def test_auto_follows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), "float32"), ((8, 0), "bfloat16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert resolve_precision("auto", torch.device("cuda")) == expected
    assert resolve_precision("auto", torch.device("meta")) == "float32"


def test_weights_are_cast_once_but_for_those_that_are_kept() -> None:
    torch.manual_seed(0)
    kept = nn.Linear(8, 8)
    convolution = nn.Conv2d(3, 8, 3)
    net = nn.ModuleList([convolution, nn.BatchNorm2d(8), nn.Linear(8, 8), kept, nn.LayerNorm(8)])
    x = torch.randn(2, 8).bfloat16()
    expected = kept(x.float())
    cast_weights(net, [kept])
    dtypes = [next(module.parameters()).dtype for module in net]
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[2](x).dtype == torch.bfloat16
        assert torch.equal(kept(x), expected)
        assert torch.equal(copy.deepcopy(net)[3](x), expected)


def test_float32_is_the_default_and_changes_nothing(exact: Segmenter) -> None:
    assert exact.model.precision == exact.cfg.MODEL.PRECISION == "float32"
    assert all(p.dtype == torch.float32 for p in exact.model.parameters())
    with exact.model.inference_autocast():
        assert not torch.is_autocast_enabled("cpu")
    assert exact.model.set_precision("float32") == "float32"


def test_results_are_close_to_those_of_float32(exact: Segmenter, reduced: Segmenter) -> None:
    """Of this photograph; benchmarks/RESULTS.md has the figures on the pages of training."""
    assert reduced.model.precision == reduced.cfg.MODEL.PRECISION == "bfloat16"
    model = reduced.model
    assert model.things.encoder[0].feed_forward.linear1.weight.dtype == torch.bfloat16
    assert model.things.class_heads[-1].log_scale.dtype == torch.float32
    maps = []
    for segmenter in (exact, reduced):
        result = segmenter.segment(IMAGE, THINGS, STUFF, output="semantic")
        maps.append({segment.label: segment.mask for segment in result.segments})
    agreement = np.mean(sum(maps[0][name] & maps[1].get(name, False) for name in maps[0]))
    covered = np.mean(sum(maps[0].values()))
    assert 0.9 * covered < agreement <= covered
    expressions = ["the orange on the left"]
    first, second = (s.set_image(IMAGE).refer(expressions=expressions) for s in (exact, reduced))
    (mask,), (other,) = ([segment.mask for segment in r.segments] for r in (first, second))
    assert (mask & other).sum() > 0.8 * (mask | other).sum()
    assert not torch.is_autocast_enabled("cpu")


def test_models_of_bfloat16_are_copied_but_not_saved(reduced: Segmenter, tmp_path: Path) -> None:
    restored = pickle.loads(pickle.dumps(reduced))
    first, second = (s.segment(IMAGE, THINGS, STUFF) for s in (reduced, restored))
    assert first.to_dict() == second.to_dict()
    with pytest.raises(HipieError, match="rounded to bfloat16: save it from a Segmenter with"):
        reduced.save_pretrained(tmp_path / "model")
    with pytest.raises(HipieError, match="build it again with precision float32"):
        reduced.model.set_precision("float32")


def test_wrong_names_are_one_sentence() -> None:
    with pytest.raises(HipieError, match="MODEL.PRECISION is 'int4'; it has to be float32 or bf"):
        Segmenter.from_config(NANO, device="cpu", precision="int4")
    with pytest.raises(HipieError, match=r"no key TEST.BFLOAT16 any more; use MODEL.PRECISION"):
        Segmenter.from_config(NANO, device="cpu", opts=["TEST.BFLOAT16", "True"])
