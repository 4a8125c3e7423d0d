"""`Segmenter.save_pretrained` and `from_pretrained` with folders and repositories of the hub."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from hipie import Segmenter, model_zoo
from hipie.cli import train
from hipie.cli.main import main
from hipie.errors import HipieError, InputError
from hipie.model_zoo.model_folder import folder_vocabulary
from hipie.vocabularies import Vocabulary
from hipie.vocabularies.json_format import vocabulary_from_json, vocabulary_to_json
from tests.limits import call_limited

from .hub_server import Hub, serve
from .test_download import set_endpoint

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
CLASSES = Vocabulary.from_names(
    things=["car", ("dog", "puppy")], stuff=["grass"], parts={"dog": ["head", ("tail", "rod")]}
)


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, tiny_text: Path) -> Segmenter:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", 0.0]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64, "INPUT.MIN_SIZE_TEST", 64]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


@pytest.fixture(scope="module")
def saved(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmenter.save_pretrained(tmp_path_factory.mktemp("saved") / "model", CLASSES)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


def assert_same_model(one: Segmenter, other: Segmenter) -> None:
    states = one.model.state_dict(), other.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert one.cfg.MODEL.HIPIE.HIDDEN_DIM == other.cfg.MODEL.HIPIE.HIDDEN_DIM == 64
    assert one.cfg.INPUT == other.cfg.INPUT


def test_a_saved_model_is_the_same_and_needs_nothing_else(segmenter, saved, tmp_path, image):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    loaded = Segmenter.from_pretrained(copy, "cpu")
    assert_same_model(segmenter, loaded)
    assert str(copy / "text_encoder") == loaded.cfg.MODEL.HIPIE.TEXT.SOURCE
    assert loaded.vocabulary == CLASSES
    names = {"things": ["car", ("dog", "puppy")], "stuff": ["grass"]}
    expected = segmenter.segment(image, **names, parts={"dog": ["head", ("tail", "rod")]})
    result = loaded.segment(image)
    assert result.class_names == expected.class_names
    assert np.array_equal(result.masks, expected.masks) and result.labels == expected.labels


def test_the_configuration_has_no_paths_of_the_machine(saved: Path, tiny_text: Path) -> None:
    text = (saved / "config.yaml").read_text()
    assert str(tiny_text) not in text and "/" not in text
    content = yaml.safe_load(text)
    assert content["MODEL"]["HIPIE"]["TEXT"]["SOURCE"] == "text_encoder"
    assert not content.keys() - {"MODEL", "INPUT", "VERSION"}
    assert not content["MODEL"].keys() & {"WEIGHTS", "DEVICE"}


def test_a_saved_model_is_saved_again_without_a_change(saved: Path, tmp_path: Path) -> None:
    again = Segmenter.from_pretrained(saved, "cpu").save_pretrained(tmp_path / "again")
    files = {path.relative_to(saved) for path in saved.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    for name in files - {Path("model.safetensors")}:
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name
    states = [load_file(folder / "model.safetensors") for folder in (saved, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_packaged_model_keeps_the_names_of_its_training(tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained("hipie-nano-picturebook", "cpu")
    folder = segmenter.save_pretrained(tmp_path / "model")
    assert {file.name for file in folder.iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "vocabulary.json",
    }
    entries = json.loads((folder / "vocabulary.json").read_text())["classes"]
    assert {"thing", "stuff", "part"} == {entry["kind"] for entry in entries}
    loaded = Segmenter.from_pretrained(folder, "cpu")
    states = segmenter.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_training_and_commands_take_a_folder(saved: Path, in_tmp: Path, image, capsys) -> None:
    from PIL import Image

    cfg = train.read_config(train.parse_arguments(["--model", str(saved)]))
    assert str(saved / "model.safetensors") == cfg.MODEL.WEIGHTS
    assert str(saved / "text_encoder") == cfg.MODEL.HIPIE.TEXT.SOURCE
    Image.fromarray(image).save("image.png")
    line = ["segment", "image.png", "--model", str(saved), "--device", "cpu", "--output", "out"]
    assert main(line) == 0
    settings = json.loads(Path("out/image.json").read_text())["settings"]
    assert settings["model"] == str(saved) and settings["things"] == []


def test_the_output_folder_of_a_training_is_a_model(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved / "config.yaml", tmp_path)
    shutil.copytree(saved / "text_encoder", tmp_path / "text_encoder")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(model_zoo.ModelError, match=r"has no model\.safetensors"):
        model_zoo.pretrained(tmp_path)
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    assert model_zoo.pretrained(tmp_path).weights == str(tmp_path / "model_0000009.pth")
    # A training that ended and was continued: the last one counts, the best before it.
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert model_zoo.pretrained(tmp_path).weights == str(tmp_path / "model_0000009.pth")
    with open(tmp_path / "config.yaml", "a") as file:
        file.write("MODEL_EMA: {ENABLED: true}\n")
    averaged = f"{tmp_path / 'model_0000009.pth'}?ema=True"
    assert model_zoo.pretrained(tmp_path).weights == averaged
    for name in ("model_best.pth", "model_best_ema.pth"):
        (tmp_path / name).write_bytes(b"")
        assert model_zoo.pretrained(tmp_path).weights == str(tmp_path / name)


def test_a_folder_without_a_model_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(model_zoo.ModelError, match=r"is not the folder of a model"):
        Segmenter.from_pretrained(tmp_path)
    shutil.copy(saved / "model.safetensors", tmp_path)
    with pytest.raises(model_zoo.ModelError, match=r"it has no config\.yaml"):
        Segmenter.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        Segmenter.from_config("hipie_nano_picturebook", device="cpu").save_pretrained(
            tmp_path / "file"
        )


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"classes": [1]}', '{"classes": [{"name": "a"}]}', '{"classes": []}']
    + ['{"classes": [{"name": "a", "kind": "thing", "synonyms": "b"}]}']
    + ['{"classes": [{"name": "a", "kind": "animal"}]}', "[" * 100_000],
)
def test_a_damaged_vocabulary_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"^vocabulary\.json"):
        vocabulary_from_json(text, "vocabulary.json")


def test_vocabularies_are_read_as_they_were_written() -> None:
    nested = Vocabulary.from_names(["person"], parts={"person": {"head": ["eye"], "arm": []}})
    for vocabulary in (CLASSES, nested, Vocabulary.from_names(stuff=["Gräser, nass"])):
        assert vocabulary_from_json(vocabulary_to_json(vocabulary), "") == vocabulary


@pytest.fixture
def server(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stand-in of the hub with the saved model as owner/model."""
    hub = Hub()
    for file in saved.rglob("*"):
        if file.is_file():
            hub.files[f"owner/model/{file.relative_to(saved)}"] = file.read_bytes()
    hub.files["owner/model/extra.bin"] = b"not needed"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(hub) as url:
        set_endpoint(monkeypatch, url)
        yield hub


def test_a_repository_of_the_hub_is_a_model(server: Hub, segmenter, monkeypatch) -> None:
    loaded = Segmenter.from_pretrained("owner/model", "cpu")
    assert_same_model(segmenter, loaded)
    assert loaded.vocabulary == CLASSES
    assert not any("extra.bin" in path for _, path, _ in server.requests)
    count = len(server.downloads)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_zoo.pretrained("owner/model").folder == model_zoo.pretrained("owner/model").folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.status = 503  # what is cached is used
    assert_same_model(segmenter, Segmenter.from_pretrained("owner/model", "cpu"))
    assert len(server.downloads) == count


def test_weights_of_a_repository_are_checked(server: Hub) -> None:
    content = server.files["owner/model/model.safetensors"]
    server.sent["owner/model/model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(model_zoo.ModelError, match="is another file: its SHA-256"):
        Segmenter.from_pretrained("owner/model", "cpu")
    server.sent.clear()
    assert Segmenter.from_pretrained("owner/model", "cpu").vocabulary == CLASSES


def test_code_that_a_repository_names_is_not_run(server: Hub, in_tmp: Path) -> None:
    Path("module_of_others.py").write_text("open('was_run', 'w')")
    server.files["owner/model/config.yaml"] += b'IMPORTS: ["module_of_others.py"]\n'
    with pytest.raises(model_zoo.ModelError, match=r"imports module_of_others\.py, which would"):
        Segmenter.from_pretrained("owner/model", "cpu")
    assert not Path("was_run").exists()


def test_code_that_a_folder_names_is_not_run(
    saved: Path, in_tmp: Path, image: np.ndarray, monkeypatch
) -> None:
    """By every way in which a folder is named; the user's `--import` permits it."""
    monkeypatch.delenv("HIPIE_ALLOW_IMPORTS", raising=False)
    shutil.copytree(saved, "stranger")
    module = Path("module_of_others.py").resolve()
    module.write_text(f"open({str(in_tmp / 'was_run')!r}, 'w')")
    with open("stranger/config.yaml", "a") as file:
        file.write(f"IMPORTS: ['{module}']\n")
    refused = r"IMPORTS would run the Python code of .*module_of_others\.py"
    with pytest.raises(HipieError, match=refused):
        Segmenter.from_pretrained("stranger", "cpu")
    Image.fromarray(image).save("image.png")
    for option in ("--model", "--weights"):
        words = ["segment", "image.png", option, "stranger", "--things", "car", "--output", "out"]
        with pytest.raises(SystemExit, match=refused):
            main(words)
    with pytest.raises(SystemExit, match=refused):
        train.main(["--config-file", "stranger/config.yaml", "OUTPUT_DIR", "run"])
    assert not Path("was_run").exists()
    Segmenter.from_pretrained("stranger", "cpu", ["IMPORTS", f"('{module}',)"])
    assert Path("was_run").exists()


@pytest.mark.parametrize("size", [2**30, 65 * 2**20])
def test_class_names_of_a_folder_have_a_limit(saved: Path, tmp_path: Path, size: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    with open(copy / "vocabulary.json", "wb") as file:
        file.truncate(size)
    outcome = call_limited(folder_vocabulary, copy, mebibytes=256)
    assert outcome.startswith("InputError: ") and "at most" in outcome
    (copy / "vocabulary.json").unlink()
    os.mkfifo(copy / "vocabulary.json")
    assert "no regular file" in call_limited(folder_vocabulary, copy, mebibytes=256, seconds=5)


@pytest.mark.parametrize("name", ["owner/nothing", "owner/model@tag", "KonstantinosKK/HIPIE"])
def test_repositories_without_a_model_are_one_sentence(server: Hub, name: str, in_tmp) -> None:
    server.files = {"KonstantinosKK/HIPIE/r50_parts.pth": b"", "owner/model/a.txt": b""}
    with pytest.raises(HipieError) as caught:
        Segmenter.from_pretrained(name)
    message = str(caught.value)
    assert name in message and "hipie-nano-picturebook" in message and "\n" not in message
    if name == "KonstantinosKK/HIPIE":
        assert "similar names are hipie-" in message and "no config.yaml" in message
