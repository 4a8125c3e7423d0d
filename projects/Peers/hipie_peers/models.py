"""Published weights of networks of other groups in the table of models."""

from __future__ import annotations

from hipie.model_zoo.models import HubFile, Model, register_model

SOURCE_KEY = "MODEL.PEERS.SOURCE"
# What transformers reads beside the weights: configurations and files of tokenizers.
COMPANIONS = ("*.json", "*.txt", "*.model")
_ALL = "things, stuff, expressions"


def _row(name: str, task: str, repository: str, licence: str, config: str) -> Model:
    """Row of a repository in the layout of transformers.

    Of several files of weights the one in the format of safetensors is taken.
    """
    source = HubFile(repository, others="/", keyword=r"^model\.safetensors$", companions=COMPANIONS)
    return Model(name, task, source, licence, f"hipie_peers/{config}.yaml", source_key=SOURCE_KEY)


def models() -> list[Model]:
    """Return the rows; licences are those that the repositories state for the weights."""
    coco = "133 things and stuff of COCO"
    ade = "150 things and stuff of ADE20K"
    facebook, oneformer = "facebook/mask2former-swin", "shi-labs/oneformer"
    other, dino = "other (code MIT)", "IDEA-Research/grounding-dino"
    florence = "florence-community/Florence-2"
    rows = (
        ("clipseg-rd64", _ALL, "CIDAS/clipseg-rd64-refined", "Apache-2.0", "clipseg"),
        ("sam3", _ALL, "facebook/sam3", "SAM License, on request", "sam3"),
        ("grounding-dino-tiny", _ALL, f"{dino}-tiny", "Apache-2.0", "grounded_sam"),
        ("grounding-dino-base", _ALL, f"{dino}-base", "Apache-2.0", "grounded_sam"),
        ("mask2former-t-coco", coco, f"{facebook}-tiny-coco-panoptic", other, "mask2former_coco"),
        ("mask2former-l-coco", coco, f"{facebook}-large-coco-panoptic", other, "mask2former_coco"),
        ("mask2former-l-ade", ade, f"{facebook}-large-ade-panoptic", other, "mask2former_ade"),
        ("oneformer-l-coco", coco, f"{oneformer}_coco_swin_large", "MIT", "oneformer_coco"),
        ("oneformer-l-ade", ade, f"{oneformer}_ade20k_swin_large", "MIT", "oneformer_ade"),
        ("florence-2-base", "expressions", f"{florence}-base", "MIT", "florence2"),
        ("florence-2-large", "expressions", f"{florence}-large", "MIT", "florence2"),
    )
    return [_row(*row) for row in rows]


def register() -> None:
    """Add the rows to the table."""
    for model in models():
        register_model(model)
