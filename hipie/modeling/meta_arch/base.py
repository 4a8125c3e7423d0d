"""Base class of all meta-architectures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import Tensor, nn

from hipie.checkpoint.base import CheckpointableModel
from hipie.errors import InputError, UnsupportedError
from hipie.modeling.compilation import Backend, compile_modules
from hipie.modeling.precision import BFLOAT16, FLOAT32, INT8, cast_weights, resolve_precision
from hipie.modeling.quantization import quantizable_layers, quantize_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hipie.structures import ImageFeatures, InferenceSize


class SegmentationModel(CheckpointableModel):
    """Meta-architecture that maps Detectron2's batched inputs to losses or predictions.

    A subclass is registered in Detectron2's `META_ARCH_REGISTRY` and implements `inference`; one
    that is trained implements `losses` as well. The other methods have defaults that suit most
    architectures. Dataset mappers and evaluators are given by their registered names, since models
    import neither data nor evaluation.

    Attributes:
        tasks: supported tasks, some of "universal", "parts", "referring", "group", "interactive"
            and "few_shot".
        supports_image_features: whether `encode_images` is implemented.
        rejects_expressions_by_score: whether an expression describes nothing where its best
            instance has a score below `MODEL.HIPIE.TEST.NO_TARGET`.
        supports_weak_labels: whether `losses` takes objects without masks, see
            `hipie.structures.Supervision`.
        no_target_threshold: that score; 0 = off.
        average_normalizers: whether losses are divided by object counts of the whole batch, in all
            processes and micro-batches (see `hipie.modeling.criterion.normalizer_averaging`).
        precision: "float32", "bfloat16" or "int8", of inference; see `set_precision`.
        is_compiled: whether `compile_inference` was called.
    """

    tasks: ClassVar[frozenset[str]] = frozenset()
    supports_image_features: ClassVar[bool] = False
    rejects_expressions_by_score: ClassVar[bool] = False
    supports_weak_labels: ClassVar[bool] = False
    no_target_threshold: float = 0.0
    average_normalizers: bool = False
    precision: str = FLOAT32
    is_compiled: bool = False

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Whether the model needs a checkpoint (`MODEL.WEIGHTS`).

        False for architectures that are built from pre-trained networks.
        """
        return True

    @classmethod
    def requires_checkpoint_of(cls, cfg: CfgNode) -> bool:
        """Whether a configuration of this architecture needs a checkpoint.

        Args:
            cfg: the configuration.

        Returns:
            The result of `requires_checkpoint`, where an architecture does not look at keys.
        """
        return cls.requires_checkpoint()

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        """Name in `DATASET_MAPPER_REGISTRY` of the mapper for a registered data set.

        Args:
            cfg: the configuration.
            dataset_name: a name in Detectron2's catalogs.
            training: whether the data set is loaded for training.

        Returns:
            A registered name, or None for the mapper of the data set's `task` metadata.
        """
        return None

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str | None:
        """Name in `EVALUATOR_REGISTRY` of the evaluator for a registered data set.

        Args:
            cfg: the configuration.
            dataset_name: a name in Detectron2's catalogs.

        Returns:
            A registered name, or None for the evaluator of the data set's `evaluator_type`.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters and buffers."""
        return next(self._tensors()).device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Tokenizer of the text encoder that encodes class names; None without such an encoder."""
        return None

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of the parameters that the optimizer does not decay."""
        return set()

    def learning_rate_multipliers(self) -> list[tuple[str, float]]:
        """Multiples of the base learning rate, by a part of parameters' names; the first counts.

        They come before those of `SOLVER`.
        """
        return []

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Layers with most of the parameters and activations, by the part they belong to.

        Parts are "backbone", "fusion", "encoder" and "decoder". A layer is used by calling it, and
        nothing else reads its parameters. In a training step all processes call the same layers
        equally often. Activation checkpointing and sharding treat every layer as a unit.

        Returns:
            Layers in the order of the forward pass; {} if the architecture has none such.
        """
        return {}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute the losses in training mode, the predictions otherwise.

        Args:
            batched_inputs: Detectron2's list of dicts.

        Returns:
            A dict of weighted loss terms in training mode, else one result per input.
        """
        if self.training:
            losses = self.losses(batched_inputs)
            if comm.get_world_size() > 1:
                losses = reach_parameters(losses, self.parameters())
            return losses
        with torch.no_grad(), self.inference_autocast():
            return self.inference(batched_inputs)

    def set_precision(self, precision: str) -> str:
        """Set the precision of inference; all but float32 round weights: training has ended.

        Args:
            precision: "float32", "bfloat16", "int8" or "auto"; see `resolve_precision`. Weights
                that are rounded stay so.

        Returns:
            "float32", "bfloat16" or "int8".

        Raises:
            InputError: for another name, or for another precision after bfloat16 or int8.
            UnsupportedError: for int8, if the architecture does not offer it.
            MissingPackageError: for int8 without torchao.
        """
        resolved = resolve_precision(precision, self.device)
        if resolved != self.precision:
            if self.precision != FLOAT32:
                raise InputError(
                    f"the weights of this model are rounded to {self.precision}: build it again "
                    f"with precision {resolved}"
                )
            if resolved == INT8:
                self._quantize()
            else:
                kept = self.float32_modules()
                if kept is not None:
                    cast_weights(self, kept)
            self.precision = resolved
        return resolved

    def float32_modules(self) -> Sequence[nn.Module] | None:
        """Modules that compute in float32 in a bfloat16 model, too; see `cast_weights`.

        Returns:
            The modules; None if no weight is cast once, but by autocast at every call.
        """
        return None

    def int8_modules(self) -> Sequence[nn.Module]:
        """Modules whose large linear layers an int8 model quantises.

        Returns:
            The modules, see `quantizable_layers`; none if the architecture does not offer int8.
        """
        return ()

    def _quantize(self) -> None:
        layers = quantizable_layers(self.int8_modules())
        if not layers:
            raise UnsupportedError(
                f"{type(self).__name__} is not offered in int8: use float32, bfloat16 or auto"
            )
        quantize_layers(self, layers)

    def modules_to_compile(self) -> list[nn.Module]:
        """Modules that `compile_inference` compiles: all of `layer_groups`."""
        return [layer for layers in self.layer_groups().values() for layer in layers]

    def compile_inference(self, backend: Backend = "inductor") -> None:
        """Compile the large parts of the network with `torch.compile`, when they are first called.

        Results change by rounding only. See `hipie.modeling.compilation`.

        Args:
            backend: of `torch.compile`.

        Raises:
            UnsupportedError: if the architecture has no parts that can be compiled.
        """
        modules = self.modules_to_compile()
        if not modules:
            raise UnsupportedError(f"{type(self).__name__} has no parts that can be compiled")
        compile_modules(modules, backend)
        self.is_compiled = True

    def inference_autocast(self) -> AbstractContextManager[Any]:
        """Context in which inference runs; without effect in float32."""
        if self.precision == BFLOAT16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the weighted loss terms of a training batch.

        Raises:
            NotImplementedError: if the architecture cannot be trained.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot be trained; use --eval-only")

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[Any]:
        """Compute the predictions of a batch.

        Args:
            batched_inputs: Detectron2's list of dicts.
            image_features: result of `encode_images` for the same images; computed if None.

        Returns:
            One result per input, in order.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement inference")

    def encode_images(self, batched_inputs: list[dict[str, Any]]) -> ImageFeatures:
        """Compute the features of images that do not depend on any text.

        Args:
            batched_inputs: Detectron2's list of dicts; only `image` is read.

        Raises:
            NotImplementedError: unless `supports_image_features`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no text-independent image features")

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize | None:
        """Sizes that determine the memory of inference, for a check before it.

        Args:
            batched_inputs: Detectron2's list of dicts.

        Returns:
            The sizes; None for architectures whose memory is not estimated.
        """
        return None

    def _tensors(self) -> Iterator[Tensor]:
        return chain(self.parameters(), self.buffers())


def reach_parameters(
    losses: dict[str, Tensor], parameters: Iterable[torch.nn.Parameter]
) -> dict[str, Tensor]:
    """Make every trainable parameter part of the graph of the losses.

    A task does not use all heads, and `DistributedDataParallel` waits for the gradient of every
    parameter unless it searches the graph in every step (`find_unused_parameters`). Here the
    backward pass reaches all parameters, and those without a gradient count as zero.

    Args:
        losses: at least one.
        parameters: of the model.

    Returns:
        The same losses with the same values.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    first = next(iter(losses))
    return {**losses, first: _ReachParameters.apply(losses[first], *trainable)}


class _ReachParameters(torch.autograd.Function):
    """Identity of its first input, whose backward pass also reaches the others."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.num_parameters = len(parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (gradients[0], *[None] * ctx.num_parameters)


def meta_architecture(cfg: CfgNode) -> type[SegmentationModel] | None:
    """Return the class that `MODEL.META_ARCHITECTURE` names.

    Returns:
        The class; None if no architecture of that name is registered, or it is not derived from
        `SegmentationModel` (Detectron2's own are not).
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        return None
    architecture = META_ARCH_REGISTRY.get(name)
    if isinstance(architecture, type) and issubclass(architecture, SegmentationModel):
        return architecture
    return None
