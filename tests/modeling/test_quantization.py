"""Linear layers of 8-bit integers: which are chosen, what they compute, and who may use them."""

from __future__ import annotations

import copy
import pickle
from importlib import util
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from hipie import Segmenter, Vocabulary, model_zoo
from hipie.engine.trainer import Trainer
from hipie.errors import HipieError, InputError, MissingPackageError, UnsupportedError
from hipie.modeling import quantization
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.quantization import MIN_FEATURES, quantizable_layers, quantize_layers
from hipie.ops.module import MSDeformAttn

NANO = "nano/hipie_nano_picturebook.yaml"
IMAGE = Path(__file__).parents[2] / "hipie/examples/photographs/citrus.jpg"
NAMES = {"things": ["house", "car", "tree", "person"], "stuff": ["grass", "sky", "road"]}


def build(config: str) -> SegmentationModel:
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(0)
    return build_model(cfg).eval()


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Rows at 255 levels, from minus to plus their largest magnitude."""
    scale = values.abs().amax(-1, keepdim=True) / 127.5
    return (values / scale).round().clamp(-128, 127) * scale


def test_large_linear_layers_are_chosen() -> None:
    attention = MSDeformAttn(MIN_FEATURES, num_levels=4)
    large, small = nn.Linear(MIN_FEATURES, 200), nn.Linear(200, MIN_FEATURES - 1)
    whole = nn.ModuleList([attention, large, small, nn.MultiheadAttention(MIN_FEATURES, 2)])
    expected = [attention.value_proj, attention.output_proj, large]
    assert quantizable_layers([whole, large]) == expected
    assert quantizable_layers([small]) == []


def test_heads_and_locations_of_hipie_keep_float32() -> None:
    model = Segmenter.from_config(NANO, device="cpu").model
    chosen = set(quantizable_layers(model.int8_modules()))
    names = {name for name, module in model.named_modules() if module in chosen}
    assert {
        "text_encoder.model.encoder.layer.0.intermediate.dense",
        "things.encoder.0.feed_forward.linear1",
        "things.decoder.layers.0.cross_attention.value_proj",
        "stuff.pixel_decoder.encoder.0.attention.output_proj",
        "stuff.decoder.layers.0.feed_forward.linear2",
    } <= names
    kept = ("head", "box", "reference", "sampling_offsets", "attention_weights", "class", "fusion")
    assert not [name for name in names if any(part in name for part in kept)]


def test_without_torchao_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    model = build(NANO)
    with pytest.raises(MissingPackageError, match='int8 needs torchao: pip install "hipie.int8'):
        model.set_precision("int8")
    assert model.precision == "float32"


def test_other_architectures_are_not_offered_in_int8() -> None:
    model = SegmentationModel()
    model.register_buffer("pixel_mean", torch.zeros(1))
    with pytest.raises(UnsupportedError, match="SegmentationModel is not offered in int8: use fl"):
        model.set_precision("int8")


def test_trainings_are_refused(tiny_cfg) -> None:
    tiny_cfg.MODEL.PRECISION = "int8"
    with pytest.raises(InputError, match="MODEL.PRECISION is int8, which rounds the weights"):
        Trainer(tiny_cfg)


@pytest.mark.skipif(util.find_spec("torchao") is None, reason="needs torchao")
class TestWithTorchao:
    def test_a_layer_multiplies_rounded_values(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(160, 192), nn.Linear(192, 130))
        x = torch.randn(50, 160)
        weight, bias = net[0].weight.detach().clone(), net[0].bias.detach().clone()
        untouched = net[1].weight
        quantize_layers(net, [net[0]])
        assert net[1].weight is untouched
        expected = rounded(x) @ rounded(weight).t() + bias
        torch.testing.assert_close(net[0](x), expected, atol=2e-2, rtol=0)
        exact = x @ weight.t() + bias
        assert 1e-4 < (net[0](x) - exact).abs().mean() < 0.02 * exact.abs().mean()

    def test_results_are_close_and_the_model_is_final(self, tmp_path: Path) -> None:
        exact = Segmenter.from_config(NANO, device="cpu")
        reduced = Segmenter.from_config(NANO, device="cpu", precision="int8")
        assert reduced.model.precision == reduced.cfg.MODEL.PRECISION == "int8"
        raw = [
            s.model.predict_raw(
                [{**s.prepare(IMAGE).inputs, "vocabulary": Vocabulary.from_names(**NAMES)}]
            )
            for s in (exact, reduced)
        ]
        for field in ("fused_text", "encoder_memory"):  # queries may be in another order
            one, other = (getattr(r, field) for r in raw)
            similarity = nn.functional.cosine_similarity(one, other, dim=-1).mean()
            assert not one.equal(other)
            assert similarity > 0.99, field
        restored = pickle.loads(pickle.dumps(reduced))
        first, second, third = (
            s.segment(IMAGE, **NAMES).to_dict() for s in (reduced, restored, copy.deepcopy(reduced))
        )
        assert first["segments"]
        assert first == second == third
        with pytest.raises(HipieError, match="rounded to int8: save it from a Segmenter with"):
            reduced.save_pretrained(tmp_path / "model")
        with pytest.raises(InputError, match="rounded to int8: build it again with precision fl"):
            reduced.model.set_precision("float32")
