"""Interface between a model and the reading and writing of its checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from hipie.checkpoint.converters.conversion import CheckpointConverter


class CheckpointableModel(nn.Module):
    """Module that declares its checkpoint converters and the weights that a package provides.

    Weights that an installed package provides (a frozen pre-trained text encoder) are left out of
    checkpoints, and `load_state_dict` does not report them as missing, whoever calls it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_drop_external_names)

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of foreign checkpoint layouts to this model's parameter names.

        Returns:
            Converters that are tried in order; a file that none recognises is loaded as it is.
        """
        return ()

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefixes of state-dict names whose tensors an installed package provides.

        Returns:
            Prefixes that end with a dot, such as `("text_encoder.",)`.
        """
        return ()


def checkpoint_converters(model: nn.Module) -> tuple[CheckpointConverter, ...]:
    """Return the converters of a model; none for a plain `nn.Module`."""
    return model.checkpoint_converters() if isinstance(model, CheckpointableModel) else ()


def external_weight_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of externally provided weights; none for a plain `nn.Module`."""
    return model.external_weight_prefixes() if isinstance(model, CheckpointableModel) else ()


def _drop_external_names(module: nn.Module, incompatible_keys: Any) -> None:
    """Remove externally provided weights from the missing keys of `load_state_dict`, in place."""
    prefixes = external_weight_prefixes(module)
    missing = incompatible_keys.missing_keys
    missing[:] = [name for name in missing if not name.startswith(prefixes)]
