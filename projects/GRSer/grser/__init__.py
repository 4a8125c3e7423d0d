"""GRSer: the things that an expression describes across a group of images.

Wu, Zhang, Xie, Zhu, Zhao, "Advancing Referring Expression Segmentation Beyond Single Image", ICCV
2023. Importing the package registers the architecture `GRSer`.
"""

from pathlib import Path

from grser.config import add_grser_config
from grser.meta_arch import GRSer
from grser.task_predictor import GroupPredictor
from hipie.export.traceable import register_exporter
from hipie.model_zoo import packaged_model, register_model, register_weights

__all__ = ["GRSer", "GroupPredictor", "add_grser_config"]

register_weights(
    "grser/grser_nano_picturebook.yaml",
    Path(__file__).parent / "weights" / "grser_nano_picturebook.pth",
)
register_model(
    packaged_model(
        "grser-nano-picturebook",
        "grser/grser_nano_picturebook.yaml",
        "expressions in groups of drawn pages",
        "cdcc9fd7f7482f7aa09fa8b97365800c3bf4049e21f8b21cbfd64f4df5709eee",
    )
)

register_exporter("GRSer", "grser.export:grser_networks")
