"""How the effect of every key of the training-free methods is observed, see `tests/wiring.py`.

Keys of an architecture are observed by its outputs for an image, with small networks of random
weights; those that name networks by what is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.sam.predictor import Sam
from hipie.vocabularies import Vocabulary
from hipie_training_free import (
    TAS,
    CLIPDINOiserStudent,
    Peekaboo,
    diffusion_attention,
    peekaboo,
    text_augmented_referring,
)
from hipie_training_free.clip_dinoiser import build_teacher
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.found_background import SaliencyLayer
from hipie_training_free.unsupervised_grouping import ClassifiedGroups
from tests.projects.training_free.ruled import fill_from_names
from tests.wiring import WiredNode

VOCABULARY = Vocabulary.from_names(things=["a red square", "dog"], stuff=["background", "grass"])


@lru_cache(maxsize=1)
def _clip() -> Clip:
    built = Clip.from_source("random:tiny")
    fill_from_names(built.model.visual)
    return built


@lru_cache(maxsize=1)
def _dino() -> Dino:
    built = Dino.from_source("random:tiny")
    fill_from_names(built.network)
    return built


@lru_cache(maxsize=1)
def _diffusion() -> Any:
    return diffusion_attention.load_diffusion("random:tiny")


def outputs(architecture: str) -> Callable[[CfgNode], Any]:
    """Function that returns the output of an architecture for an image."""

    def observe(cfg: CfgNode) -> Any:
        torch.manual_seed(0)
        clip, dino, diffusion = _clip(), _dino(), _diffusion()
        with (
            patch.object(Clip, "from_source", lambda *_: clip),
            patch.object(Dino, "from_source", lambda *_: dino),
            patch.object(diffusion_attention, "load_diffusion", lambda _: diffusion),
        ):
            build = META_ARCH_REGISTRY.get(architecture)
            model = build(**build.from_config(cfg)).eval()
        item = _item(expressions=architecture == "GlobalLocalCLIP")
        with torch.no_grad():
            result = model([item])
            if isinstance(model, ClassifiedGroups):
                return result, model.group_pixels(item["image"] / 255, (64, 72))
            return result

    return observe


def loaded(architecture: str) -> Callable[[CfgNode], Any]:
    """Function that returns what the networks of an architecture are loaded from."""

    def observe(cfg: CfgNode) -> Any:
        sources: list[Any] = []

        def record(result: Any) -> Callable[..., Any]:
            return lambda *source: sources.append(source) or result

        clip, dino, diffusion = record(_clip()), record(_dino()), record(_diffusion())
        sam = record(Sam.from_source("random:tiny"))
        with (
            patch.object(Clip, "from_source", clip),
            patch.object(Dino, "from_source", dino),
            patch.object(Sam, "from_source", sam),
            patch.object(diffusion_attention, "load_diffusion", diffusion),
        ):
            arguments = META_ARCH_REGISTRY.get(architecture).from_config(cfg)
        proposals = arguments.get("proposals")
        cells = getattr(proposals, "__closure__", None) or ()
        grids = [getattr(cell.cell_contents, "point_grids", None) for cell in cells]
        return sources, grids, getattr(proposals, "__qualname__", None)

    return observe


def _item(*, expressions: bool) -> dict[str, Any]:
    square = torch.zeros(1, 64, 72, dtype=torch.bool)
    square[:, 10:40, 20:50] = True
    noise = torch.randint(0, 50, (3, 64, 72), generator=torch.Generator().manual_seed(0))
    image = (square * torch.tensor([200, 20, 20])[:, None, None] + noise).to(torch.uint8)
    if expressions:
        return {"image": image, "expressions": ["the red square near a dog", "a dog"]}
    return {"image": image, "vocabulary": VOCABULARY}


_KEYS = "MODEL.TRAINING_FREE"
_SMALL = (
    *(f"{_KEYS}.TEMPLATES", "one", f"{_KEYS}.GEM.BLOCKS", 2, f"{_KEYS}.DIFFUSION.SIZE", 64),
    *(f"{_KEYS}.REFERRING.PROPOSALS", "kmeans", f"{_KEYS}.REFERRING.BLOCKS", 1),
    *(f"{_KEYS}.KMEANS.CLUSTERS", 2, f"{_KEYS}.KMEANS.RESTARTS", 1),
)


def _node(name: str, architecture: str, **settings: Any) -> WiredNode:
    options = {"": _SMALL, **settings.pop("options", {})}
    return WiredNode(f"{_KEYS}.{name}", outputs(architecture), options=options, **settings)


def student(cfg: CfgNode) -> Any:
    """Trained parameters, learning rates, losses and output of the student."""
    torch.manual_seed(0)
    clip, dino = _clip(), _dino()
    with patch.object(Clip, "from_source", lambda *_: clip):
        arguments = CLIPDINOiserStudent.from_config(cfg)
    model = CLIPDINOiserStudent(
        **{**arguments, "teacher": lambda: {"dino": dino, "saliency": None}}
    )
    item = _item(expressions=False)
    losses = model.losses([item])
    with torch.no_grad():
        output = model.eval()([item])
    return model.affinity.weight.shape, model.learning_rate_multipliers(), losses, output


def text_augmented(cfg: CfgNode) -> Any:
    """Masks and scores of TAS with a captioner that repeats its source."""

    def load(source: str) -> Any:
        return lambda images: [f"{source} dogs near a tree {n}" for n, _ in enumerate(images)]

    clip, dino = _clip(), _dino()
    with (
        patch.object(Clip, "from_source", lambda *_: clip),
        patch.object(Dino, "from_source", lambda *_: dino),
        patch.object(text_augmented_referring, "load_captioner", load),
    ):
        model = TAS(**TAS.from_config(cfg)).eval()
    image = _item(expressions=True)["image"].float() / 255
    boxes = torch.zeros(4, 64, 72, dtype=torch.bool)
    boxes[0, :10, :10] = boxes[1, 20:40, :30] = boxes[2, 35:60, 20:50] = boxes[3, :20, 50:] = True
    model.proposals = lambda _: boxes
    masks = model.propose_masks(image)
    return masks, model.score_masks(image, masks, ["the red square on the left", "a dog"])


def optimized_masks(cfg: CfgNode) -> Any:
    """Masks and scores of Peekaboo."""
    diffusion = _diffusion()
    with patch.object(peekaboo, "load_diffusion", lambda _: diffusion):
        model = Peekaboo(**Peekaboo.from_config(cfg)).eval()
    (output,) = model([_item(expressions=True)])
    return [(instances.pred_masks, instances.scores) for instances in output["referring"]]


def found(cfg: CfgNode) -> Any:
    """What FOUND is loaded from."""
    sources: list[Any] = []
    dino = _dino()
    with (
        patch.object(Dino, "from_source", lambda *_: dino),
        patch.object(SaliencyLayer, "from_source", lambda *source: sources.append(source)),
    ):
        build_teacher(cfg)
    return sources


NODES = [
    _node("TEMPLATES", "MaskCLIP", values={f"{_KEYS}.TEMPLATES": "simple"}),
    _node("SCALE", "MaskCLIP"),
    _node("BACKGROUND", "MaskCLIP"),
    _node("SIZE", "MaskCLIP", values={f"{_KEYS}.SIZE": 128}),
    _node(
        "WINDOW",
        "SCLIP",
        values={f"{_KEYS}.WINDOW": 32},
        options={f"{_KEYS}.WINDOW": (f"{_KEYS}.STRIDE", 16)},
    ),
    _node(
        "STRIDE",
        "SCLIP",
        values={f"{_KEYS}.STRIDE": 16},
        options={f"{_KEYS}.STRIDE": (f"{_KEYS}.WINDOW", 32, f"{_KEYS}.STRIDE", 32)},
    ),
    _node("PAMR", "MaskCLIP", options={"DILATIONS": (f"{_KEYS}.PAMR.STEPS", 2)}),
    _node(
        "MASKCLIP",
        "MaskCLIP",
        values={"PROMPT_DENOISING": 0.9, "KEY_SMOOTHING": 1.0},
        options={"KEYS_ALONG_PATCHES": (f"{_KEYS}.MASKCLIP.KEY_SMOOTHING", 1.0)},
    ),
    _node("GEM", "GEM", values={"TEMPERATURE": 3.0}),
    _node("POOLING_THRESHOLD", "CLIPDINOiser", values={f"{_KEYS}.POOLING_THRESHOLD": 0.9}),
    WiredNode(
        f"{_KEYS}.TAS",
        text_augmented,
        values={"CAPTIONER": "captions", "MIN_AREA": 300, "MAX_OVERLAP": 0.01, "NEGATIVE": 5.0},
        options={"": (*_SMALL, f"{_KEYS}.TAS.MIN_AREA", 1, f"{_KEYS}.TAS.CAPTIONER", "some")},
    ),
    WiredNode(
        f"{_KEYS}.PEEKABOO",
        optimized_masks,
        values={"MASK": "raster", "SIZE": 24, "MIN_STEP": 0.5, "MAX_STEP": 0.3, "THRESHOLD": 0.6},
        options={
            "": (
                *(*_SMALL, f"{_KEYS}.PEEKABOO.SIZE", 16, f"{_KEYS}.PEEKABOO.ITERATIONS", 2),
                *(f"{_KEYS}.PEEKABOO.SMOOTHING_STEPS", 1, f"{_KEYS}.PEEKABOO.LEARNING_RATE", 0.01),
            )
        },
    ),
    WiredNode(f"{_KEYS}.STUDENT", student, values={"BLOCK": 2}, options={"": _SMALL}),
    WiredNode(
        f"{_KEYS}.FOUND",
        found,
        values={"MODEL": "random:tiny", "DINO_WEIGHTS": "dino.pth", "WEIGHTS": "layer.pt"},
        options=dict.fromkeys(("MODEL", "DINO_WEIGHTS"), (f"{_KEYS}.FOUND.WEIGHTS", "decoder.pt")),
    ),
    _node("ATTENTION_MASS", "ClassAttention", values={f"{_KEYS}.ATTENTION_MASS": 0.2}),
    _node(
        "KMEANS",
        "KMeansGrouping",
        values={"RESTARTS": 20},
        options={"RESTARTS": (f"{_KEYS}.KMEANS.CLUSTERS", 6)},
    ),
    _node(
        "TOKENCUT",
        "TokenCut",
        values={"THRESHOLD": 0.95, "WEAK": 0.5, "OBJECTS": 3},
        options=dict.fromkeys(("WEAK", "OBJECTS"), (f"{_KEYS}.TOKENCUT.THRESHOLD", 0.95)),
    ),
    _node(
        "MASKCUT",
        "MaskCut",
        values={"THRESHOLD": 0.95, "WEAK": 0.5, "OBJECTS": 1},
        options=dict.fromkeys(("WEAK", "OBJECTS"), (f"{_KEYS}.MASKCUT.THRESHOLD", 0.95)),
        tested={
            "FEATURES": "tests/projects/training_free/test_pseudo_masks.py::"
            "test_features_are_those_of_an_output_of_the_backbone",
            "REFINEMENT": "tests/projects/training_free/test_pseudo_masks.py::"
            "test_masks_are_refined",
        },
    ),
    _node(
        "REFERRING",
        "GlobalLocalCLIP",
        values={"GLOBAL": 0.2},
        other_nodes=tuple(
            f"{_KEYS}.REFERRING.{key}" for key in ("PROPOSALS", "SAM", "SAM_WEIGHTS", "POINTS")
        ),
    ),
    _node(
        "DIFFUSION",
        "DiffusionAttention",
        values={"SIZE": 128},
        other_nodes=(f"{_KEYS}.DIFFUSION.SOURCE",),
        tested={
            "PHRASES": "tests/projects/training_free/test_diffusion_backbone.py::"
            "test_names_add_their_cross_attention"
        },
    ),
    WiredNode(
        f"{_KEYS}.DIFFUSION.SOURCE",
        loaded("DiffusionAttention"),
        values={f"{_KEYS}.DIFFUSION.SOURCE": "random:tiny"},
    ),
    WiredNode(
        f"{_KEYS}.CLIP", loaded("MaskCLIP"), values={"MODEL": "ViT-L-14", "WEIGHTS": "clip.pt"}
    ),
    WiredNode(
        f"{_KEYS}.DINO",
        loaded("KMeansGrouping"),
        values={"MODEL": "vit_small_patch16_224.dino", "WEIGHTS": "dino.pth"},
    ),
    *(
        WiredNode(
            f"{_KEYS}.REFERRING.{key}",
            loaded("GlobalLocalCLIP"),
            values={} if value is None else {f"{_KEYS}.REFERRING.{key}": value},
        )
        for key, value in (
            ("PROPOSALS", "kmeans"),
            ("SAM", "vit_l"),
            ("SAM_WEIGHTS", "sam.pth"),
            ("POINTS", None),
        )
    ),
]
