"""Names of repositories of the hub in configurations of strangers."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from hipie import model_zoo
from hipie.errors import HipieError
from hipie.modeling.hub import HubError, check_hub_file, is_hub_name
from hipie.modeling.open_vocabulary.clip_loading import load_clip
from hipie.modeling.text_encoder.bert import BertTextEncoder

NAMES = ["a--b", "a..b", "a/b.git", "x" * 200, "a/" + "b" * 5000, "a/b/c", "-a", "a\x1b[2J", "a\0b"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", [*NAMES, "~nosuchuser/x", "/dev/zero"])
def test_names_that_are_none_are_one_sentence(name: str) -> None:
    for load in (
        lambda: BertTextEncoder.from_source(name),
        lambda: load_clip(f"hf-hub:{name}"),
        lambda: load_clip(name),
        lambda: load_clip("ViT-B-32", name),
        lambda: model_zoo.pretrained(name),
        lambda: model_zoo.get_config(name),
    ):
        with pytest.raises(HipieError) as caught:
            load()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_about_them(name: str) -> None:
    assert not is_hub_name(name)
    with pytest.raises(HubError, match="no repository of the Hugging Face hub has such a name"):
        check_hub_file(name, ["config.json"])


def test_names_of_repositories_are_known() -> None:
    assert all(map(is_hub_name, ("google-bert/bert-base-uncased", "gpt2", "a_b/c.d-e")))
