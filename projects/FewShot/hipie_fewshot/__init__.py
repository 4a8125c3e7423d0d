"""Masks from examples: one image in which an object is masked, and it is found in others.

Prototypes of DINOv2 features; PerSAM and PerSAM-F (Zhang et al., "Personalize Segment Anything
Model with One Shot", ICLR 2024); Matcher (Liu et al., "Matcher: Segment Anything with One Shot
Using All-Purpose Feature Matching", ICLR 2024). Importing the package registers the architecture
`FewShot`.
"""

from hipie_fewshot.config import add_hipie_fewshot_config
from hipie_fewshot.meta_arch import FewShot
from hipie_fewshot.support_set import Example, ExampleError
from hipie_fewshot.task_predictor import FewShotPredictor

__all__ = ["FewShotPredictor", "Example", "ExampleError", "FewShot", "add_hipie_fewshot_config"]
