"""Small models and inputs of mask classification with CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("hipie_proposal_clip")
pytest.importorskip("open_clip")

CONFIGS = Path(__file__).parents[3] / "projects/ProposalCLIP/configs"
SMALL = (
    *("MODEL.HIPIE.HIDDEN_DIM", 32, "MODEL.HIPIE.LOSS.NUM_POINTS", 32),
    *("MODEL.HIPIE.STUFF.NUM_QUERIES", 10, "MODEL.HIPIE.STUFF.ENCODER_LAYERS", 1),
    *("MODEL.HIPIE.STUFF.DECODER_LAYERS", 2, "MODEL.HIPIE.STUFF.NUM_HEADS", 4),
    *("MODEL.HIPIE.STUFF.DIM_FEEDFORWARD", 32, "MODEL.HIPIE.STUFF.DENOISING_QUERIES", 4),
    *("MODEL.PROPOSAL_CLIP.ENCODER_DIM_FEEDFORWARD", 32, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "PICTUREBOOK.TRAIN_PAGES", 8, "PICTUREBOOK.VAL_PAGES", 3),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 96, "INPUT.MIN_SIZE_TEST", 64),
    *("INPUT.MAX_SIZE_TEST", 96, "SOLVER.AMP.ENABLED", False, "MODEL.DEVICE", "cpu"),
)


@pytest.fixture
def small_cfg(tiny_book, tmp_path):
    """Function that returns a configuration of the project at its smallest, with its data."""
    from detectron2.config import get_cfg

    from hipie import model_zoo
    from hipie.config import add_hipie_config
    from hipie.data.datasets import register_all

    def build(name: str, *options):
        cfg = model_zoo.get_config(
            str(CONFIGS / name),
            [
                *SMALL,
                *("PICTUREBOOK.ROOT", str(tiny_book), "OUTPUT_DIR", str(tmp_path / "output")),
                *options,
            ],
        )
        register_all(cfg)
        return cfg

    yield build
    plain = get_cfg()
    add_hipie_config(plain)
    register_all(plain)


@pytest.fixture
def image() -> torch.Tensor:
    """A bright square on a dark background, [3, 64, 96] uint8."""
    pixels = torch.randint(0, 60, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    pixels[:, 10:40, 20:60] += 150
    return pixels.to(torch.uint8)
