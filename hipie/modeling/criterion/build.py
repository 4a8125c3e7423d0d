"""Registry and base class of criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from hipie.modeling.criterion.losses import MatchedLayer
from hipie.modeling.device_transfer import HostSteps, run
from hipie.structures import DecoderOutput, MaskHead, Targets

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """
Criteria by name, chosen by `MODEL.HIPIE.LOSS.THING_CRITERION` and `STUFF_CRITERION`. An entry is a
module that is built from a configuration, `MyCriterion(cfg)`, and is called as
`criterion(output, targets, mask_head, text_mask)` with a `DecoderOutput`, one `Targets` an image,
the decoder's `MaskHead` and [B, T] bool; it returns scalars by name. A `Criterion` shares its
transfers to the host with the other decoder's.
"""


class Criterion(nn.Module):
    """Criterion that yields what it needs on the host, see `hipie.modeling.device_transfer`."""

    def forward(
        self,
        output: DecoderOutput,
        targets: Sequence[Targets],
        mask_head: MaskHead,
        text_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute all losses; see `steps`."""
        return run(self.steps(output, targets, mask_head, text_mask))

    def steps(
        self,
        output: DecoderOutput,
        targets: Sequence[Targets],
        mask_head: MaskHead,
        text_mask: Tensor | None = None,
    ) -> HostSteps[dict[str, Tensor]]:
        """Compute all losses.

        Args:
            output: of the decoder in training, with proposals.
            targets: one an image (or expression).
            mask_head: of the decoder.
            text_mask: [B, T] bool, True for real tokens; None: all are real.

        Returns:
            Scalars by name; all are nan if a prediction is nan or infinite.
        """
        raise NotImplementedError

    def matched_layer(self, **values: Any) -> MatchedLayer:
        """Build the pairs of a layer, of which losses are computed.

        A criterion with other weights of queries or objects returns a subclass.

        Args:
            **values: attributes of `MatchedLayer`.
        """
        return MatchedLayer(**values)


def criterion_steps(
    criterion: nn.Module,
    output: DecoderOutput,
    targets: Sequence[Targets],
    mask_head: MaskHead,
    text_mask: Tensor | None = None,
) -> HostSteps[dict[str, Tensor]]:
    """Compute the losses of any registered criterion; see `Criterion.steps`."""
    if isinstance(criterion, Criterion):
        return (yield from criterion.steps(output, targets, mask_head, text_mask))
    losses: dict[str, Tensor] = criterion(output, targets, mask_head, text_mask)
    return losses


def build_criterion(name: str, cfg: CfgNode) -> nn.Module:
    """Build the criterion that is registered as `name`.

    Raises:
        KeyError: if there is none.
    """
    return CRITERION_REGISTRY.get(name)(cfg)
