"""FOUND: patches that differ from the patch of least attention are salient, and a trained layer.

Simeoni, Sekkat, Puy, Vobecky, Zablocki, Perez, "Unsupervised Object Localization: Observing the
Background to Discover Objects", CVPR 2023, sections 3.1 and 3.2. The first stage is not trained;
the second is a trained convolution 1x1 of DINO's keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.checkpoint.load import check_exact_state
from hipie.checkpoint.read import read_state
from hipie_training_free.modeling.dino import Dino

THRESHOLD = 0.3
EPS = 1e-10


def head_weights(attention: Tensor) -> Tensor:
    """Compute the weight of each head: log(sum of all heads' shares / its own share).

    A head's share is that of the patches with more attention than the mean over all heads and
    patches, so that heads that attend to few patches have a larger weight.

    Args:
        attention: [heads, P] of the class token in the last block.

    Returns:
        [heads].
    """
    shares = (attention > attention.mean()).float().mean(1) + EPS
    return (shares.sum() / shares).log()


def salient_patches(keys: Tensor, attention: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Find the patches that are not background.

    The seed of the background is the patch with the least attention, weighted by head. Patches are
    background if the cosine of their keys, weighted likewise, with the seed's is above the
    threshold.

    Args:
        keys: [P, C] of DINO's last block, concatenated heads.
        attention: [heads, P] of the class token in that block.
        threshold: published 0.3.

    Returns:
        [P] bool.
    """
    weights = head_weights(attention.float())
    by_head = keys.float().unflatten(1, (len(weights), -1)) * weights[:, None]
    unit = F.normalize(by_head.flatten(1), dim=1)
    seed = (weights[:, None] * attention.float()).sum(0).argmin()
    return torch.mv(unit, unit[seed]) <= threshold


class SaliencyLayer:
    """FOUND's trained layer on a frozen DINO; not an `nn.Module`, as `Dino`.

    Args:
        dino: network whose keys are classified; published ViT-S/8.
        layer: convolution 1x1 of the keys to one logit.
    """

    def __init__(self, dino: Dino, layer: nn.Conv2d) -> None:
        self.dino = dino
        self.layer = layer.eval().requires_grad_(False)

    @classmethod
    def from_source(cls, model: str, dino_weights: str, weights: str) -> SaliencyLayer:
        """Load DINO (see `load_dino`) and the layer's file, `decoder_weights.pt` of the authors.

        Raises:
            CheckpointError: if the file cannot be read, or has other tensors.
        """
        dino = Dino.from_source(model, dino_weights)
        layer = nn.Conv2d(dino.network.embed_dim, 1, 1)
        state = {
            name.removeprefix("decoder."): value
            for name, value in read_state(weights)["model"].items()
        }
        check_exact_state(layer.state_dict(), state, weights, "FOUND")
        layer.load_state_dict(state)
        return cls(dino, layer)

    @torch.no_grad()
    def salient_patches(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """Find the salient patches of a grid.

        Args:
            image: [3, H, W] RGB in 0..1.
            grid: (h, w) of the result; probabilities are resized to it with antialiasing.

        Returns:
            [h w] bool.
        """
        features = self.dino.extract_features(image)
        keys = features.keys.float().t().unflatten(1, features.grid)[None]
        probabilities = self.layer.to(keys.device)(keys).sigmoid()
        resized = F.interpolate(
            probabilities, size=grid, mode="bilinear", antialias=True, align_corners=False
        )
        return resized[0, 0].flatten() > 0.5
