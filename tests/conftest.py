"""What every test gets: one thread, the same seeds, and a folder of its own."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.separate_logging import separate_logging

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Detectron2's model zoo imports pkg_resources
    import detectron2.model_zoo  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors are quicker on one thread, and sums come out the same everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seeds():
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # Detectron2 draws its augmentations from this state
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def restored_logging():
    """Programs that ran in a test leave no log files for the next one."""
    with separate_logging():
        yield


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A test that runs inside its own empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    """A folder with a BERT of one layer, 32 wide, and MiniLM's tokens."""
    from transformers import BertConfig, BertModel

    from hipie.modeling.text_encoder.tokenizer import load_tokenizer, minilm_folder

    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**shape, intermediate_size=32, attn_implementation="eager")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    load_tokenizer(str(minilm_folder())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tiny_text, tmp_path_factory):
    """A file with random weights for `tests/tiny.yaml` with MODEL.HIPIE.HIDDEN_DIM 64.

    A group norm of 32 channels refuses a map of one pixel, hence the width.
    """
    from detectron2.modeling import build_model

    from hipie import model_zoo
    from hipie.checkpoint import save_weights

    torch.manual_seed(0)
    options = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", 64]
    cfg = model_zoo.get_config(str(Path(__file__).parent / "tiny.yaml"), options)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_weights(build_model(cfg), path, half=False)
    return path


@pytest.fixture(scope="session")
def tiny_book(tmp_path_factory):
    """A folder for pages of the picture book, drawn when they are first used."""
    return tmp_path_factory.mktemp("book")


@pytest.fixture
def tiny_options(tiny_text, tiny_book, tmp_path):
    """What a command line says after `--config-file tests/tiny.yaml`."""
    return [
        *("MODEL.HIPIE.TEXT.SOURCE", str(tiny_text)),
        *("PICTUREBOOK.ROOT", str(tiny_book)),
        *("OUTPUT_DIR", str(tmp_path / "output")),
    ]


@pytest.fixture
def tiny_cfg(tiny_options):
    """The configuration of `tests/tiny.yaml`, its registries filled and its data registered."""
    from hipie.data.datasets import register_all

    cfg = _plain_cfg()
    cfg.merge_from_file(str(Path(__file__).parent / "tiny.yaml"))
    cfg.merge_from_list(tiny_options)
    register_all(cfg)
    yield cfg
    register_all(_plain_cfg())


def tiny_full_size(backbone: str, text_source: str):
    """The published configuration of a backbone, "r50" or "vit_h", with every width cut down."""
    from hipie import model_zoo

    cfg = model_zoo.get_config(f"universal/hipie_{backbone}.yaml")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.HIPIE.TEXT.SOURCE", text_source),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
            *("MODEL.VIT.EMBED_DIM", 32, "MODEL.VIT.DEPTH", 4, "MODEL.VIT.NUM_HEADS", 2),
            *("MODEL.VIT.IMAGE_SIZE", 128, "MODEL.VIT.PRETRAIN_IMAGE_SIZE", 64),
            *("MODEL.VIT.WINDOW_BLOCKS", (0, 2), "MODEL.VIT.WINDOW_SIZE", 3),
            *("MODEL.HIPIE.HIDDEN_DIM", 64, "MODEL.HIPIE.LOSS.NUM_POINTS", 64),
            *("MODEL.HIPIE.THINGS.NUM_QUERIES", 20, "MODEL.HIPIE.THINGS.NUM_BACKGROUND_QUERIES", 3),
            *("MODEL.HIPIE.THINGS.ENCODER_LAYERS", 2, "MODEL.HIPIE.THINGS.DECODER_LAYERS", 2),
            *("MODEL.HIPIE.THINGS.NUM_HEADS", 4, "MODEL.HIPIE.THINGS.DIM_FEEDFORWARD", 32),
            *("MODEL.HIPIE.THINGS.FUSION_EMBED_DIM", 32, "MODEL.HIPIE.THINGS.FUSION_HEADS", 2),
            *("MODEL.HIPIE.THINGS.DENOISING_QUERIES", 8),
            *("MODEL.HIPIE.STUFF.NUM_QUERIES", 12, "MODEL.HIPIE.STUFF.ENCODER_LAYERS", 2),
            *("MODEL.HIPIE.STUFF.DECODER_LAYERS", 2, "MODEL.HIPIE.STUFF.NUM_HEADS", 4),
            *("MODEL.HIPIE.STUFF.DIM_FEEDFORWARD", 32, "MODEL.HIPIE.STUFF.DENOISING_QUERIES", 8),
        ]
    )
    return cfg


@pytest.fixture(params=["r50", "vit_h"])
def tiny_published(request, tiny_text):
    """HIPIE as published, with either backbone, at its smallest."""
    return _built(tiny_full_size(request.param, str(tiny_text)))


@pytest.fixture
def tiny_vit(tiny_text):
    """HIPIE with a plain vision transformer, at its smallest."""
    return _built(tiny_full_size("vit_h", str(tiny_text)))


def _built(cfg):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    return build_model(cfg).eval()


def _plain_cfg():
    """Detectron2's configuration with the keys of this package."""
    from detectron2.config import get_cfg

    from hipie import add_hipie_config

    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg
