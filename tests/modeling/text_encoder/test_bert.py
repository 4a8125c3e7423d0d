"""BERT text encoder: windows, batches, and the feature cache."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import expression_caption, vocabulary_caption
from hipie.vocabularies.vocabulary import Vocabulary

LONG = Vocabulary.from_names([f"thing number {i}" for i in range(300)])


def names_caption(*names: str):
    return vocabulary_caption(Vocabulary.from_names(names))


def count_calls(encoder: BertTextEncoder) -> list[int]:
    """Batch size of each call of the network, appended as it is called."""
    calls: list[int] = []

    def record(module, args, kwargs) -> None:
        calls.append(len(kwargs["input_ids"]))

    encoder.model.register_forward_pre_hook(record, with_kwargs=True)
    return calls


def published_windows(model: BertModel, ids: Tensor, length: int) -> Tensor:
    """Hidden states of a caption in a buffer of `length`, as the published program has them."""
    buffer = torch.zeros(length, dtype=torch.long)
    buffer[: len(ids)] = ids
    inputs, masks, positions = [], [], []
    start = 0
    while start < len(ids):
        rest = buffer[start : len(ids)][:510]
        cut = max(i for i, token in enumerate(rest.tolist()) if token in (1012, 102))
        own = rest[: cut + 1].clone()
        own[-1] = 102
        row, mask = torch.zeros(512, dtype=torch.long), torch.zeros(512, dtype=torch.long)
        shift = 0 if start == 0 else 1
        if shift:
            row[0] = 101
            row[1 + len(own)] = 1012
        row[shift : shift + len(own)] = own
        mask[: shift + len(own)] = 1
        inputs.append(row)
        masks.append(mask)
        positions.append((start, shift, len(own)))
        start += len(own)
    hidden = model(torch.stack(inputs), attention_mask=torch.stack(masks)).last_hidden_state
    out = torch.zeros(length, hidden.shape[-1])
    for (start, shift, size), row in zip(positions, hidden, strict=True):
        out[start : start + size] = row[shift : shift + size]
    return out


def test_shapes_and_spans(tiny: BertTextEncoder) -> None:
    features = tiny([names_caption("dog", "traffic light"), names_caption("sky")])
    assert features.hidden.shape == (2, 6, 32)
    assert features.mask.sum(1).tolist() == [6, 3]
    assert features.input_ids[1, 3:].eq(0).all()
    assert features.hidden[1, 3:].eq(0).all()
    assert features.token_spans == (((1,), (3, 4)), ((1,),))
    assert tiny.width == 32


def test_batch_equals_single_captions(tiny: BertTextEncoder) -> None:
    captions = [names_caption("dog", "cat", "tall tree"), expression_caption("the red dog")]
    batched = tiny(captions)
    for row, caption in enumerate(captions):
        alone = tiny([caption])
        size = alone.hidden.shape[1]
        assert torch.allclose(batched.hidden[row, :size], alone.hidden[0], atol=1e-5)


def test_long_captions_match_the_published_windows(tiny: BertTextEncoder) -> None:
    with torch.no_grad():
        features = tiny([vocabulary_caption(LONG)])
        ids = features.input_ids[0]
        assert len(ids) > 1024
        expected = published_windows(tiny.model, ids, 2048)
    assert torch.allclose(features.hidden[0], expected[: len(ids)], atol=1e-5)
    assert expected[len(ids) :].eq(0).all()
    assert not torch.allclose(features.hidden[0, 1], features.hidden[0, 3], atol=1e-2)


def test_equal_captions_are_encoded_once(tiny: BertTextEncoder) -> None:
    calls = count_calls(tiny)
    first, second = names_caption("dog"), names_caption("cat")
    features = tiny.train()([first, second, first])
    assert sum(calls) == 2
    assert torch.equal(features.hidden[0], features.hidden[2])
    assert not torch.equal(features.hidden[0], features.hidden[1])


def test_features_are_cached_in_evaluation_only(tiny: BertTextEncoder) -> None:
    calls = count_calls(tiny)
    caption = names_caption("dog")
    with torch.no_grad():
        before = tiny([caption]).hidden
        tiny([caption])
        assert sum(calls) == 1
        tiny([names_caption("cat"), caption])
        assert sum(calls) == 2
    tiny.train()
    tiny([caption])
    tiny([caption]).hidden.sum().backward()
    assert sum(calls) == 4
    assert tiny.model.embeddings.word_embeddings.weight.grad is not None
    tiny.eval()
    with torch.no_grad():
        assert torch.equal(tiny([caption]).hidden, before)


def test_changed_weights_clear_the_cache(tiny: BertTextEncoder) -> None:
    caption = names_caption("dog")
    with torch.no_grad():
        before = tiny([caption]).hidden
        next(tiny.model.parameters()).add_(0.5)
        after = tiny([caption]).hidden
        assert not torch.allclose(before, after)
        other = copy.deepcopy(tiny)
        tiny.load_state_dict({k: v * 0.9 for k, v in other.state_dict().items()})
        assert not torch.allclose(tiny([caption]).hidden, after)
        assert torch.allclose(other([caption]).hidden, after)
        replaced = tiny([caption]).hidden
        tiny.model.embeddings.LayerNorm.weight = torch.nn.Parameter(torch.full((32,), 0.3))
        assert not torch.allclose(tiny([caption]).hidden, replaced)
        assert tiny.double()([caption]).hidden.dtype == torch.float32


def test_cache_is_bounded_in_bytes(tiny: BertTextEncoder) -> None:
    caption_bytes = 3 * 32 * 4
    encoder = BertTextEncoder(tiny.model, tiny.tokenizer, cache_bytes=2 * caption_bytes).eval()
    calls = count_calls(encoder)
    dog, cat, sky = (names_caption(name) for name in ("dog", "cat", "sky"))
    with torch.no_grad():
        for caption in (dog, cat, dog, sky, dog):
            encoder([caption])
        assert sum(calls) == 3
        encoder([cat])
        assert sum(calls) == 4


def test_frozen_encoder_stays_in_evaluation_without_gradients(tiny: BertTextEncoder) -> None:
    encoder = BertTextEncoder(tiny.model, tiny.tokenizer, frozen=True)
    assert not encoder.train().model.training
    assert not any(weight.requires_grad for weight in encoder.parameters())
    calls = count_calls(encoder)
    with torch.inference_mode():
        encoder([names_caption("dog")])
    features = encoder([names_caption("dog")])
    assert sum(calls) == 1
    scale = torch.ones(32, requires_grad=True)
    (features.hidden * scale).sum().backward()
    assert scale.grad is not None


def test_bfloat16_autocast_has_its_own_cache_entries(tiny: BertTextEncoder) -> None:
    caption = names_caption("dog", "cat")
    with torch.no_grad():
        exact = tiny([caption]).hidden
        with torch.autocast("cpu", torch.bfloat16):
            coarse = tiny([caption]).hidden
        assert torch.equal(tiny([caption]).hidden, exact)
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().max() < 0.2


def test_minilm_features_reflect_meaning() -> None:
    encoder = BertTextEncoder.from_source("minilm", frozen=True)
    assert encoder.width == 384
    expressions = ["a small dog", "a little puppy", "the stock market fell"]
    pooled = encoder([expression_caption(expression) for expression in expressions]).pooled()[:, 0]
    near, far = torch.cosine_similarity(pooled[:1], pooled[1:])
    assert near > 0.6 > 0.3 > far


def test_saved_folder_gives_equal_features(tiny: BertTextEncoder, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = BertTextEncoder.from_source(str(tmp_path)).eval()
    caption = names_caption("dog")
    assert torch.equal(again([caption]).hidden, tiny([caption]).hidden)


def test_incomplete_folders_are_reported(tiny: BertTextEncoder, tmp_path: Path) -> None:
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f'"{tmp_path}" cannot be loaded'):
        BertTextEncoder.from_source(str(tmp_path))
    larger = BertConfig(**{**tiny.model.config.to_dict(), "num_hidden_layers": 3})
    tiny.model.save_pretrained(tmp_path)
    larger.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights: encoder.layer.2"):
        BertTextEncoder.from_source(str(tmp_path))


def test_pickled_weights_of_a_folder_are_read_without_torchs_unpickler(
    tiny: BertTextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", None)
    again = BertTextEncoder.from_source(str(tmp_path)).eval()
    caption = names_caption("dog")
    assert torch.equal(again([caption]).hidden, tiny([caption]).hidden)


def test_configurations_have_shapes_only(tiny: BertTextEncoder, tmp_path: Path) -> None:
    """Keys by which transformers loads further code or networks are not read."""
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    foreign = {
        "auto_map": {"AutoModel": "own.Model"},
        "attn_implementation": "somebody/kernels",
        "_attn_implementation": "somebody/kernels",
        "quantization_config": {"quant_method": "own"},
        "is_decoder": True,
    }
    file.write_text(json.dumps({**config, **foreign}))
    again = BertTextEncoder.from_source(str(tmp_path))
    assert again.model.config._attn_implementation == tiny.model.config._attn_implementation
    assert not any(hasattr(again.model.config, key) for key in ("auto_map", "quantization_config"))
    for changes, message in (
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"hidden_act": "os.system"}, "cannot be loaded"),
        ({"hidden_size": -3}, "cannot be loaded"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"vocab_size": "many"}, "cannot be loaded"),
        ({"model_type": "own\nline"}, "its type is"),
    ):
        file.write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=message) as error:
            BertTextEncoder.from_source(str(tmp_path))
        assert "\n" not in str(error.value)


def test_empty_batch_is_rejected(tiny: BertTextEncoder) -> None:
    with pytest.raises(ValueError, match="at least one caption"):
        tiny([])
