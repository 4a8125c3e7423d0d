"""Checkpoints with the tensor names of the authors of LISA and GSVA."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hipie.checkpoint import load_weights
from hipie.checkpoint.converters.conversion import convert_state
from hipie.checkpoint.error import CheckpointError
from hipie.cli.main import main
from hipie.errors import HipieError, InputError
from hipie.modeling.sam.loading import load_sam
from hipie_reasoning import ReasoningSeg
from hipie_reasoning.checkpoint_converters import OFFICIAL_LISA
from hipie_reasoning.modeling.adapters import make_trainable
from hipie_reasoning.modeling.language_model import MultimodalLanguageModel
from hipie_reasoning.modeling.mask_decoder import SamMaskDecoder
from tests.projects.reasoning.model_families import begin_with_bos, bytes_tokenizer

QUESTION, ANSWER = "Which can fly?", "It is [SEG]."
WIDTH = 32
CONFIG = {
    "architectures": ["LISAForCausalLM"],
    "model_type": "llava",
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "mm_vision_tower": "clip",
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": True,
}


class Published:
    """The parts of LISA, and its two kinds of files.

    Attributes:
        state: tensors by the authors' names, of a merged model.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        marks = ("<im_patch>", "<im_start>", "<im_end>")
        self.tokenizer = bytes_tokenizer(
            marks, "</s>", bos_token="<s>", unk_token="<unk>", pad_token="<unk>"
        )
        begin_with_bos(self.tokenizer)
        self.tokenizer.add_tokens(["[SEG]", "[REJ]"])
        keys = set(CONFIG) - {"architectures", "model_type"}
        shape = {key: CONFIG[key] for key in keys if not key.startswith("mm_")}
        self.llama = LlamaForCausalLM(
            LlamaConfig(**shape, vocab_size=len(self.tokenizer), initializer_range=0.2)
        ).eval()
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=24, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                image_size=28, patch_size=14, projection_dim=24,
            )
        ).eval()  # fmt: skip
        self.projector = nn.Linear(24, WIDTH)
        self.sam = load_sam("random:tiny")
        prompt_width = self.sam.prompt_encoder.embed_dim
        self.projection = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, prompt_width), nn.Dropout(0.0)
        )
        self.state = self.named(self.llama.state_dict())

    def named(self, llama: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        parts = {
            "model.mm_projector.": self.projector,
            "model.visual_model.": self.sam,
            "model.text_hidden_fcs.0.": self.projection,
            "model.vision_tower.vision_tower.vision_model.": self.clip,
        }
        state = dict(llama)
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        for prefix, module in parts.items():
            state |= {f"{prefix}{name}": value for name, value in module.state_dict().items()}
        state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = (
            torch.arange(5)[None]
        )
        return state

    def write(self, folder, *, shards: int = 1) -> str:
        """Write a folder as on the hub, without the image encoder, which is beside."""
        self.clip.save_pretrained(folder / "clip")
        CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ).save_pretrained(folder / "clip")
        self.tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        names = [name for name in self.state if "vision_tower" not in name]
        if shards == 1:
            torch.save({n: self.state[n] for n in names}, folder / "pytorch_model.bin")
            return str(folder)
        table = {n: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, n in enumerate(names)}
        for file in set(table.values()):
            part = {n: self.state[n] for n in names if table[n] == file}
            torch.save(part, folder / file)
        index = json.dumps({"metadata": {}, "weight_map": table})
        (folder / "pytorch_model.bin.index.json").write_text(index)
        return str(folder)

    @torch.no_grad()
    def hidden(self, pixels, text, llama=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [T, C] of a text with an image in place of <image>, and token ids."""
        llama = llama or self.llama
        before, after = (
            self.tokenizer(part, add_special_tokens=False, return_tensors="pt")["input_ids"]
            for part in text.split("<image>")
        )
        before = torch.cat([torch.tensor([[self.tokenizer.bos_token_id]]), before], 1)
        images = CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )(Image.fromarray(pixels), return_tensors="pt")
        features = self.clip(**images, output_hidden_states=True).hidden_states[-2][:, 1:]
        embed = llama.get_input_embeddings()
        sequence = torch.cat([embed(before), self.projector(features), embed(after)], 1)
        output = llama(inputs_embeds=sequence, output_hidden_states=True)
        ids = torch.cat([before, torch.zeros(1, features.shape[1], dtype=torch.long), after], 1)
        return output.hidden_states[-1][0], ids[0]


@pytest.fixture(scope="module")
def published() -> Published:
    return Published()


def build(folder: str) -> ReasoningSeg:
    """A model with the language model of a folder, and other weights elsewhere."""
    torch.manual_seed(1)
    language_model = MultimodalLanguageModel.from_source(folder)
    make_trainable(language_model.model, rank=0, alpha=1.0, dropout=0.0, targets=())
    sam = SamMaskDecoder(load_sam("random:tiny"))
    return ReasoningSeg(language_model=language_model, mask_decoder=sam).eval()


def convert(state, tmp_path, *options: str) -> str:
    torch.save(state, tmp_path / "published.bin")
    out = str(tmp_path / "converted.safetensors")
    assert main(["checkpoint", "convert", str(tmp_path / "published.bin"), out, *options]) == 0
    return out


def dialogue_text(question: str, answer: str) -> str:
    """Vicuna's form with the marks of an image, as both codes build it."""
    system = (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    )
    return f"{system} USER: <im_start><image><im_end>\n{question} ASSISTANT: {answer}</s>"


def test_a_published_file_is_loaded_completely_and_computes_the_same(
    published, pixels, image, tmp_path, capsys
) -> None:
    """Hidden states, prompts and masks of the parts that the file was made of."""
    (tmp_path / "folder").mkdir()
    model = build(published.write(tmp_path / "folder"))
    for parameter in model.parameters():
        nn.init.normal_(parameter.data)
    report = load_weights(model, convert(published.state, tmp_path))
    assert "layout official LISA or GSVA, 2 left out" in capsys.readouterr().out
    assert report.complete
    assert report.loaded == len(model.state_dict())
    hidden, ids = published.hidden(pixels, dialogue_text(QUESTION, ANSWER))
    position = int((ids == published.tokenizer.convert_tokens_to_ids("[SEG]")).nonzero()) - 1
    with torch.no_grad():
        prompt = published.projection(hidden[position])[None, None]
        dialogues = model.language_model.encode_dialogues([pixels], [QUESTION], [ANSWER])
        states, _ = model.language_model(dialogues.inputs)
        (state,) = model.language_model.seg_states(states, dialogues.labels)
        torch.testing.assert_close(state[0], hidden[position], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.prompt_projection(state), prompt[0], atol=1e-5, rtol=1e-5)
        features, size = model.mask_decoder.encode(image)
        sparse, dense = published.sam.prompt_encoder(None, None, None)
        assert sparse.shape[1] == 0
        small, _ = published.sam.mask_decoder(
            features, published.sam.prompt_encoder.get_dense_pe(), prompt, dense, False
        )
        expected = published.sam.postprocess_masks(small, size, (60, 90))[:, 0]
        masks = model.mask_decoder.decode(
            (features, size), model.prompt_projection(state), (60, 90)
        )
        torch.testing.assert_close(masks, expected, atol=1e-4, rtol=1e-4)
        side = published.sam.image_encoder.img_size
        square = torch.rand(1, 3, side, side)
        encoded = published.sam.image_encoder(square)
        assert torch.equal(model.mask_decoder.sam.image_encoder(square), encoded)


@pytest.mark.parametrize("old_names", [True, False], ids=["peft-0.4", "peft"])
def test_adapters_are_merged(published, pixels, old_names) -> None:
    """The model of peft with the adapters beside the layers; scale 16, as in both trainings."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    llama = LlamaForCausalLM(published.llama.config).eval()
    llama.load_state_dict(published.llama.state_dict())
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(llama, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    llama_state = {}
    for name, value in adapted.state_dict().items():
        name = name.removeprefix("base_model.model.")
        llama_state[name.replace(".base_layer.", ".") if old_names else name] = value
    state = {f"base_model.model.{n}": v for n, v in published.named(llama_state).items()}
    converted = convert_state(state, [OFFICIAL_LISA])
    assert converted.layout == "official LISA or GSVA"
    prefix = "language_model.model."
    merged = LlamaForCausalLM(published.llama.config).eval()
    merged.load_state_dict(
        {
            name.removeprefix(prefix).replace("model.language_model.", "model."): value
            for name, value in converted.state.items()
            if name.startswith((f"{prefix}model.language_model.", f"{prefix}lm_head."))
        }
    )
    text = dialogue_text(QUESTION, ANSWER)
    expected, _ = published.hidden(pixels, text, adapted.base_model.model)
    plain, _ = published.hidden(pixels, text)
    actual, _ = published.hidden(pixels, text, merged)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert (actual - plain).abs().max() > 0.1


def test_names_are_told_whatever_wrappers_are_removed(published) -> None:
    """Readers remove a first component that most names have, transformers 5 has one less."""
    expected, dropped = OFFICIAL_LISA.convert(published.state)
    short = {name.removeprefix("model."): value for name, value in published.state.items()}
    peft = {f"base_model.model.{name}": value for name, value in published.state.items()}
    newer = {name.replace(".vision_model.", "."): v for name, v in published.state.items()}
    for state in (short, peft, newer):
        assert OFFICIAL_LISA.recognizes(set(state))
        converted, left_out = OFFICIAL_LISA.convert(state)
        assert converted.keys() == expected.keys()
        assert len(left_out) == len(dropped) == 2


def test_a_projector_of_two_layers_keeps_both(published) -> None:
    """`mlp2x_gelu` of LLaVA 1.5."""
    state = {n: v for n, v in published.state.items() if "mm_projector" not in n}
    for layer in (0, 2):
        state[f"model.mm_projector.{layer}.weight"] = torch.full((WIDTH, WIDTH), float(layer))
        state[f"model.mm_projector.{layer}.bias"] = torch.full((WIDTH,), float(layer))
    converted, _ = OFFICIAL_LISA.convert(state)
    prefix = "language_model.model.model.multi_modal_projector.linear_"
    assert float(converted[f"{prefix}1.weight"].mean()) == 0
    assert float(converted[f"{prefix}2.weight"].mean()) == 2


def test_a_folder_in_several_files_is_a_language_model(published, pixels, tmp_path) -> None:
    """With the dialogue in the form of the authors' code, and their image tokens."""
    folder = published.write(tmp_path, shards=2)
    language_model = MultimodalLanguageModel.from_source(folder).eval()
    assert len(language_model.tokenizer) == len(published.tokenizer)
    text = language_model.format_dialogue(QUESTION, ANSWER)
    assert text.replace("<unk>", "<image>") == dialogue_text(QUESTION, ANSWER)
    dialogues = language_model.encode_dialogues([pixels], [QUESTION], [ANSWER])
    with torch.no_grad():
        hidden, _ = language_model(dialogues.inputs)
    expected, ids = published.hidden(pixels, dialogue_text(QUESTION, ANSWER))
    assert len(ids) == dialogues.inputs["input_ids"].shape[1]
    torch.testing.assert_close(hidden[0], expected, atol=1e-5, rtol=1e-5)
    answer, _ = language_model.generate(pixels, QUESTION, 3)
    assert isinstance(answer, str)
    # The file of masks and prompts alone, from the index.
    out = str(tmp_path / "masks.safetensors")
    index = str(tmp_path / "pytorch_model.bin.index.json")
    assert main(["checkpoint", "convert", index, out, "--exclude", "language_model."]) == 0
    report = load_weights(build(folder), out)
    assert not report.unexpected
    assert not report.mismatched
    assert all(name.startswith("language_model.") for name in report.missing)


def test_mistakes_in_a_folder_are_named(published, tmp_path) -> None:
    folder = tmp_path / "lisa"
    folder.mkdir()
    published.write(folder)
    (folder / "pytorch_model.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(InputError, match="there is no file of weights"):
        MultimodalLanguageModel.from_source(str(folder))
    state = torch.load(tmp_path / "weights.bin")
    del state["model.norm.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match='not those of its configuration: ".*norm.weight"'):
        MultimodalLanguageModel.from_source(str(folder))
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:-3]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="tokens, and the weights fewer"):
        MultimodalLanguageModel.from_source(str(folder))
    content = CONFIG | {"mm_vision_tower": "no/such-clip"}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="mm_vision_tower no/such-clip"):
        MultimodalLanguageModel.from_source(str(folder))


def test_an_incomplete_adapter_is_named(published) -> None:
    state = published.state | {
        "model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(4, WIDTH)
    }
    with pytest.raises(CheckpointError, match='"layers.0.self_attn.q_proj" lacks a matrix'):
        OFFICIAL_LISA.convert(state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, 'has no "weight_map"'),
        ({"weight_map": {"a": "missing.bin"}}, 'there is no "missing.bin" beside the index'),
        ({"weight_map": {"a": "../part.bin"}}, 'there is no "../part.bin" beside'),
        ({"weight_map": {"a": "x.index.json"}}, 'there is no "x.index.json" beside'),
        ({"weight_map": {"a": "part.bin", "b": "part.bin"}}, 'its files have no "b"'),
    ],
)
def test_mistakes_in_an_index_are_named(content, message, tmp_path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "part.bin")
    index = tmp_path / "x.index.json"
    index.write_text(json.dumps(content))
    model = nn.Module()
    model.a = nn.Parameter(torch.zeros(2))
    with pytest.raises(HipieError, match=message):
        load_weights(model, index)
    index.write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    load_weights(model, index)
    assert np.array_equal(model.a.detach(), [1, 1])
