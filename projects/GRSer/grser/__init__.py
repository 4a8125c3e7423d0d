"""GRSer: the things that an expression describes across a group of images.

Wu, Zhang, Xie, Liu, Zhou, "Advancing Referring Expression Segmentation Beyond Single Image", ICCV
2023. Importing the package registers the architecture `GRSer`.
"""

from grser.config import add_grser_config
from grser.meta_arch import GRSer
from grser.task_predictor import GroupPredictor

__all__ = ["GroupPredictor", "GRSer", "add_grser_config"]
