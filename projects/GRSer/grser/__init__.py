"""GRSer: the things that an expression describes across a group of images.

Wu, Zhang, Xie, Zhu, Zhao, "Advancing Referring Expression Segmentation Beyond Single Image", ICCV
2023. Importing the package registers the architecture `GRSer`.
"""

from pathlib import Path

from grser.config import add_grser_config
from grser.meta_arch import GRSer
from grser.task_predictor import GroupPredictor
from hipie.model_zoo import register_weights

__all__ = ["GRSer", "GroupPredictor", "add_grser_config"]

register_weights(
    "grser/grser_nano_picturebook.yaml",
    Path(__file__).parent / "weights" / "grser_nano_picturebook.pth",
)
