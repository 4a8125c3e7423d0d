"""`Segmenter`: from class names, expressions or prompts to masks.

    from hipie import Segmenter

    segmenter = Segmenter.from_config("nano/hipie_nano_picturebook.yaml")
    result = segmenter.segment("image.jpg", things=["car", "dog"], stuff=["grass", "sky"])
    result.save("masks.png")

Several calls on one image share its features:

    segmenter.set_image("image.jpg")
    cars = segmenter.refer(expressions=["the red car", "the car left of the tree"])
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from numpy.typing import NDArray
from PIL import Image

import hipie.model_zoo as model_zoo
from hipie.data.image_io import ImageLike, image_file_name, image_list, to_rgb_array
from hipie.data.io.reading_rules import read_by, rules_of
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError, InputError, describe
from hipie.read_ahead import predict_in_order
from hipie.segmenter_calls import SET_IMAGE, SegmentOptions, SetImage, one_at_a_time
from hipie.vocabularies.vocabulary import Names, Parts, Vocabulary

# Detectron2, transformers and what else a model needs are imported when one is built.
if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from hipie.modeling.meta_arch.base import SegmentationModel
    from hipie.modeling.sam.predictor import Sam
    from hipie.segmentation import Segmentation
    from hipie.task_predictors import PreparedImage, TaskPredictor
    from hipie.task_predictors.class_names import ClassNameReader
    from hipie.task_predictors.universal import ClassRequest


class Segmenter:
    """Segments images of any size, one at a time, by class names, expressions or prompts.

    Methods raise a `HipieError` with one sentence for whatever fails; of a bug the traceback is in
    the log file that the sentence names.

    One object may be used by several threads: a call waits until those of other threads have ended.
    The image of `set_image` is that of all threads.

    Args:
        model: a meta-architecture of this package or of a project.
        cfg: the configuration it was built from.

    Attributes:
        vocabulary: class names that the model was trained with, which calls without names use;
            None if they are not known.
    """

    def __init__(self, model: SegmentationModel, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg
        self.vocabulary: Vocabulary | None = None
        self._image: PreparedImage | None = None
        self._predictors: dict[str, TaskPredictor] = {}
        self._class_names: ClassNameReader | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    @classmethod
    @as_hipie_errors()
    def from_config(
        cls,
        config_file: str | Path,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        opts: Sequence[Any] = (),
        *,
        precision: str | None = None,
        compile: bool = False,
    ) -> Segmenter:
        """Build a model and load its weights.

        Args:
            config_file: a name of the model zoo, or a file.
            weights: a file, an address or a model of `hipie models list`; by default
                `MODEL.WEIGHTS` of `opts`, else the weights that the package carries for the
                configuration, else its `MODEL.WEIGHTS`.
            device: what `torch.device` takes; by default CUDA where it is available.
            opts: keys and values that override the configuration, in turn.
            precision: "float32", "bfloat16", "auto", which is bfloat16 where the processor or GPU
                computes in it, or "int8" (HIPIE, with torchao); by default the
                configuration's `MODEL.PRECISION`, float32.
            compile: whether the large parts of the network are compiled with `torch.compile`, at
                the first image; needs a C++ compiler (on a GPU Triton).

        Raises:
            ValueError: for an unknown configuration, key, value or device; if there are no weights
                for the configuration and its architecture does not bring them; or if they are of a
                model of other sizes.
        """
        cfg = model_zoo.get_config(str(config_file), opts)  # registers everything
        from detectron2.modeling import build_model

        from hipie.checkpoint import Checkpointer
        from hipie.config.device import require_device
        from hipie.config.loading import check
        from hipie.config.unread import warn_about_unread_keys
        from hipie.modeling.meta_arch.base import meta_architecture

        default_device = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.MODEL.DEVICE = str(require_device(default_device if device is None else device))
        if precision is not None:
            cfg.MODEL.PRECISION = precision
        check(cfg)
        warn_about_unread_keys(cfg)
        given = model_zoo.weights_address(weights) if weights else ""
        named = model_zoo.trained_weights(cfg, opts)
        # With packaged weights MODEL.WEIGHTS of the file is what their training started from.
        if "MODEL.WEIGHTS" not in opts[::2]:
            named = str(model_zoo.get_weights(str(config_file)) or named)
        source = given or named
        architecture = meta_architecture(cfg)
        if not source and (architecture is None or architecture.requires_checkpoint_of(cfg)):
            raise InputError(
                f"{config_file}: there are no weights for this configuration in the package; "
                "pass weights=FILE"
            ).on_command_line(
                f"{config_file}: there are no weights for this configuration in the package; "
                "name them with --weights FILE"
            )
        model = build_model(cfg)
        checkpointer = Checkpointer(model)
        checkpointer.load(str(source or ""))
        cfg.MODEL.PRECISION = model.set_precision(cfg.MODEL.PRECISION)
        if compile:
            model.compile_inference()
        return cls(model, cfg)

    @classmethod
    @as_hipie_errors()
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        opts: Sequence[Any] = (),
        *,
        revision: str = "",
        precision: str | None = None,
        compile: bool = False,
    ) -> Segmenter:
        """Build a model by name, with its weights, which are downloaded if necessary.

        Args:
            name: a model of `hipie models list`, such as "hipie-r50"; a folder that
                `save_pretrained` wrote, or of a training; or a repository of the Hugging Face hub
                that holds one, "owner/name".
            device: see `from_config`.
            opts: likewise.
            revision: commit, branch or tag of a repository.
            precision: see `from_config`.
            compile: likewise.

        Raises:
            ModelError: for an unknown name, with similar ones; or if the weights are not available,
                with what can be done.
            MissingPackageError: if the model needs a package that is not installed.
        """
        source = model_zoo.pretrained(name, revision)
        options = [*source.options, *opts]
        segmenter = cls.from_config(
            source.config, source.weights, device, options, precision=precision, compile=compile
        )
        segmenter.vocabulary = source.vocabulary()
        return segmenter

    @as_hipie_errors()
    @one_at_a_time
    def save_pretrained(self, folder: str | Path, vocabulary: Vocabulary | None = None) -> Path:
        """Write configuration, weights and class names into a folder for `from_pretrained`.

        Args:
            folder: created if needed; files of the same names are replaced.
            vocabulary: class names; by default those of `vocabulary`, else of the data sets of the
                configuration's `DATASETS.TRAIN`.

        Returns:
            The folder.

        Raises:
            HipieError: naming the file that cannot be written; or if the model's weights are
                rounded to bfloat16 or int8.
        """
        if self.model.precision != "float32":
            raise InputError(
                f"the weights of this model are rounded to {self.model.precision}: save it from a "
                "Segmenter with precision float32"
            )
        from hipie.data.training_vocabulary import training_vocabulary

        classes = vocabulary or self.vocabulary or training_vocabulary(self.cfg.DATASETS.TRAIN)
        return model_zoo.save_model(self.model, self.cfg, folder, classes)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @as_hipie_errors()
    @one_at_a_time
    def to(self, device: str | torch.device) -> Segmenter:
        """Move the model to a device; features of `set_image` are computed again there.

        Args:
            device: such as "cpu" or "cuda:1".

        Returns:
            This segmenter.
        """
        from hipie.config.device import require_device

        require_device(device)
        self.model.to(device)
        if self._image is not None:
            pixels, file_name = self._image.pixels, self._image.file_name
            self.reset_image()
            self._set_pixels(pixels, file_name)
        return self

    @as_hipie_errors()
    @one_at_a_time
    def set_image(self, image: ImageLike) -> Segmenter:
        """Compute the text-free features of an image and keep them for calls without an image.

        Args:
            image: a path, the bytes of an image file or such a file opened in binary mode, a PIL
                image, an RGB array [H, W, 3] or an RGB tensor [3, H, W], uint8 or float in 0..1.

        Returns:
            This segmenter.

        Raises:
            ImageError: if it is not an image.
            FileNotFoundError: if there is no such file.
        """
        self._set_pixels(to_rgb_array(image, self.cfg.INPUT.MAX_PIXELS), image_file_name(image))
        return self

    def reset_image(self) -> None:
        """Discard the image of `set_image` and its features."""
        self._image = None

    @as_hipie_errors()
    @one_at_a_time
    def segment(
        self,
        image: ImageLike | SetImage | PreparedImage = SET_IMAGE,
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
        *,
        output: str = "panoptic",
        min_score: float | None = None,
        min_area: int = 0,
        max_segments: int | None = None,
        consistent: bool = True,
        sam: Sam | None = None,
    ) -> Segmentation:
        """Segment things and stuff by class names, and the parts of things.

        Args:
            image: see `set_image`; without it, the image that was set.
            things: class names; a tuple is a name and its synonyms. One string is one name, or
                several as on the command line: "car; dog, puppy".
            stuff: likewise, for classes without instances.
            parts: part names by the name of their whole, which joins the things; parts of parts
                as `Vocabulary.from_names` takes them; or one string, "car: wheel, window".
            output: "panoptic" for segments that do not overlap; "instances" for every instance of
                a thing with a sufficient score, which may overlap; "semantic" for one segment a
                class.
            min_score: segments (not parts) with a lower score in 0..1 are dropped; by default 0.4
                for instances, else 0, as the panoptic map has thresholds of its own.
            min_area: segments and parts with fewer pixels are dropped.
            max_segments: only so many segments are kept, those with the highest scores.
            consistent: parts end where their whole ends; see `assign_parts`.
            sam: refines masks: of things by their boxes, of parts inside their wholes.

        Raises:
            ValueError: for an image that cannot be read, class names that cannot be used, or an
                output that the model does not have.
        """
        predictor = self.task_predictor("universal", "segment")
        classes = self._read_classes(things, stuff, parts)
        return predictor.predict_named(
            [self.prepare(image)],
            classes=classes,
            output=output,
            min_score=min_score,
            min_area=min_area,
            max_segments=max_segments,
            consistent=consistent,
            sam=sam,
        )[0]

    @as_hipie_errors()
    def segment_tiled(
        self,
        image: ImageLike,
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
        *,
        tile: int,
        overlap: float = 0.25,
        **options: Unpack[SegmentOptions],
    ) -> Segmentation:
        """Segment a large image, such as an aerial one, tile by tile; see `hipie.tiling`.

        Each tile is resized as an image of its size is. Things that tiles cut are joined.

        Args:
            image: see `set_image`.
            things: see `segment`.
            stuff: likewise.
            parts: likewise.
            tile: side of a tile in pixels; an image that fits one is segmented as by `segment`.
            overlap: share of the side that neighbouring tiles have in common, in 0 to 0.5.
            **options: see `segment`; `min_area` and `max_segments` are about the whole image.

        Raises:
            ValueError: see `segment`; for a tile or overlap that cannot be used.
        """
        from hipie.task_predictors.universal import of_best_scores, with_area
        from hipie.tiling import check_tiling, segment_tiles

        check_tiling(tile, overlap)
        pixels = to_rgb_array(image, self.cfg.INPUT.MAX_PIXELS)
        own: SegmentOptions = {**options, "min_area": 0, "max_segments": None}
        is_whole = max(pixels.shape[:2]) <= tile
        result = segment_tiles(
            pixels,
            lambda part: self.segment(part, things, stuff, parts, **(options if is_whole else own)),
            tile,
            overlap,
            exclusive=options.get("output", "panoptic") != "instances",
        )
        segments = with_area(result.segments, max(options.get("min_area", 0), 1))
        kept = of_best_scores(segments, options.get("max_segments"))
        return replace(result, segments=kept, file_name=image_file_name(image))

    def segment_batch(
        self,
        images: Iterable[ImageLike],
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
        *,
        batch: int = 1,
        **options: Unpack[SegmentOptions],
    ) -> list[Segmentation]:
        """Segment several images by the same class names; see `stream` for very many.

        Args:
            images: see `set_image`.
            things: see `segment`.
            stuff: likewise.
            parts: likewise.
            batch: see `stream`.
            **options: see `segment`.

        Returns:
            One result an image, in order.

        Raises:
            ValueError: see `segment`; for the first image that cannot be segmented.
        """
        return list(self.stream(images, things, stuff, parts, batch=batch, **options))

    @as_hipie_errors()
    def stream(
        self,
        images: Iterable[ImageLike],
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
        *,
        expressions: str | Sequence[str] = (),
        threshold: float | None = None,
        on_error: Callable[[ImageLike, HipieError], None] | None = None,
        batch: int = 1,
        **options: Unpack[SegmentOptions],
    ) -> Iterator[Segmentation]:
        """Segment images one after another, while a thread reads the next ones.

        An image is taken from the iterable when it is `READ_AHEAD` images from its turn (or from
        that of its batch), in the thread that takes the results, and nothing is kept of those that
        are done.

        Args:
            images: see `set_image`; any iterable, also without an end.
            things: see `segment`.
            stuff: likewise.
            parts: likewise.
            expressions: segment these instead of classes; see `refer`.
            threshold: of expressions; see `refer`.
            on_error: called with an image that cannot be segmented, and the error; it then has no
                result. By default the error is raised.
            batch: the features of so many images in a row are computed together, as far as they
                have one size in the model, so that no result depends on the others of its batch
                but for the rounding of a kernel that sums in another order; and as far as the
                memory suffices. For models with text-free features (`supports_image_features`).
            **options: of `segment`, for classes.

        Returns:
            An iterator over the results, in the order of the images.

        Raises:
            ValueError: for class names or expressions that cannot be used, at once; for an image
                that cannot be segmented, in its turn.
        """
        from hipie.task_predictors.referring import read_expressions

        single = isinstance(images, str | bytes | os.PathLike | Mapping | Image.Image)
        if single or not isinstance(images, Iterable):
            raise InputError(f"stream needs several images, not {describe(images)}")
        if expressions and (things or stuff or parts or options):
            raise InputError("stream takes class names with options, or expressions, not both")
        if expressions:
            self.task_predictor("referring", "refer")
            read = read_expressions(expressions)
            call = partial(self.refer, expressions=read, threshold=threshold)
        elif threshold is not None:
            raise InputError("threshold is for expressions; classes take min_score")
        else:
            self.task_predictor("universal", "segment")
            with self._lock:
                self._read_classes(things, stuff, parts)
            call = partial(self.segment, things=things, stuff=stuff, parts=parts, **options)
        if type(batch) is not int or batch < 1:
            raise InputError(f"batch has to be a number of images from 1, not {describe(batch)}")
        if batch == 1:
            return predict_in_order(images, self.prepare, call, on_error)
        return predict_in_order(
            images,
            self.prepare,
            call,
            on_error,
            batch=batch,
            batch_key=lambda image: tuple(image.inputs["image"].shape),
            prepare_batch=self._encode_together,
        )

    @one_at_a_time
    def _encode_together(self, images: Sequence[PreparedImage]) -> None:
        from hipie.task_predictors import encode_together

        encode_together(images)

    @as_hipie_errors()
    @one_at_a_time
    def best_score(
        self,
        image: ImageLike | SetImage = SET_IMAGE,
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
    ) -> tuple[str, float]:
        """Return the class and the score of what an image has most likely, below every threshold.

        It says by how much `segment` has found nothing.

        Args:
            image: see `set_image`; without it, the image that was set.
            things: see `segment`.
            stuff: likewise.
            parts: likewise; wholes join the things.
        """
        predictor = self.task_predictor("universal", "best_score")
        classes = self._read_classes(things, stuff, parts)
        best: tuple[str, float] = predictor.best_score(self.prepare(image), classes)  # type: ignore[attr-defined]
        return best

    @as_hipie_errors()
    @one_at_a_time
    def label(
        self,
        image: ImageLike | SetImage = SET_IMAGE,
        masks: NDArray[Any] | torch.Tensor | None = None,
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
    ) -> Segmentation:
        """Classify masks by class names; where masks overlap, the smaller one takes precedence.

        The class of a mask is the one whose semantic score, summed over its pixels, is largest.
        Masks of one stuff class become one segment. With `parts`, a mask inside a larger one of the
        same class is a part of it, and its class is chosen among the parts of that class.

        Args:
            image: see `set_image`; without it, the image that was set.
            masks: [N, H, W] bool.
            things: class names; a tuple is a name and its synonyms.
            stuff: likewise, for classes without instances.
            parts: part names by the name of their whole, see `segment`.

        Raises:
            ValueError: if there is no mask, one is empty, or they are of another size.
        """
        predictor = self.task_predictor("mask_labelling", "label")
        if masks is None:
            raise InputError("label needs masks [N, H, W]")
        vocabularies = self._labelling_vocabularies(things, stuff, parts)
        return predictor.predict_named([self.prepare(image)], masks=masks, **vocabularies)[0]

    @as_hipie_errors()
    @one_at_a_time
    def segment_everything(
        self,
        image: ImageLike | SetImage = SET_IMAGE,
        sam: Sam | None = None,
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
        **options: float,
    ) -> Segmentation:
        """Classify SAM's automatic masks by class names; empty if SAM proposes none.

        See `label`.

        Args:
            image: see `set_image`; without it, the image that was set.
            sam: proposes the masks.
            things: class names; a tuple is a name and its synonyms.
            stuff: likewise, for classes without instances.
            parts: part names by the name of their whole, see `segment`.
            **options: see `hipie.modeling.sam.automatic_masks.automatic_masks`.

        Raises:
            ValueError: without a SAM; see `segment`.
        """
        predictor = self.task_predictor("mask_labelling", "segment_everything")
        if sam is None:
            raise InputError("segment_everything needs sam, which proposes the masks")
        vocabularies = self._labelling_vocabularies(things, stuff, parts)
        return predictor.predict_named(
            [self.prepare(image)], sam=sam, sam_options=options, **vocabularies
        )[0]

    def _labelling_vocabularies(
        self, things: Names, stuff: Names, parts: Parts | str | None
    ) -> dict[str, Vocabulary]:
        """Arguments of the task predictor; parts only where the call names some."""
        classes = self._read_classes(things, stuff, parts)
        if not parts or classes.part_vocabulary is None:
            return {"vocabulary": classes.vocabulary}
        return {"vocabulary": classes.vocabulary, "part_vocabulary": classes.part_vocabulary}

    @as_hipie_errors()
    @one_at_a_time
    def refer(
        self,
        image: ImageLike | SetImage | PreparedImage = SET_IMAGE,
        expressions: str | Sequence[str] = (),
        *,
        threshold: float | None = None,
    ) -> Segmentation:
        """Segment the object that each expression describes, in the order of the expressions.

        Args:
            image: see `set_image`; without it, the image that was set.
            expressions: one expression or several.
            threshold: an expression whose best object has a lower score in 0..1 describes nothing:
                its mask is empty, its score is kept. By default `MODEL.HIPIE.TEST.NO_TARGET` of
                the model's configuration; 0 = every expression describes something.

        Raises:
            ValueError: without an expression, for one without any letter, or for a threshold that
                is not in 0..1.
        """
        from hipie.task_predictors.referring import read_expressions

        predictor = self.task_predictor("referring", "refer")
        read = read_expressions(expressions)
        return predictor.predict_named(
            [self.prepare(image)], expressions=read, threshold=threshold
        )[0]

    @as_hipie_errors()
    @one_at_a_time
    def reason(
        self,
        image: ImageLike | SetImage = SET_IMAGE,
        question: str | Sequence[str] = "",
        *,
        language_model: Any = None,
    ) -> tuple[str, Segmentation]:
        """Answer questions about an image, and segment what the answers speak of.

        Args:
            image: see `set_image`; without it, the image that was set.
            question: one question or several; each is answered by itself.
            language_model: chat model that names classes or expressions, which this model then
                segments: a name, or a `hipie_reasoning.ChatModel`; None = this model answers.

        Returns:
            The answers, a line each, and their segments; without any if nothing in the image
            answers. `Segmentation.answers` tells which segments are whose.
        """
        request: dict[str, Any] = {"questions": question}
        task = "reasoning"
        if language_model is not None:
            request["language_model"] = language_model
            task += "_by_classes" if "universal" in self.model.tasks else "_by_expressions"
        predictor = self.task_predictor(task, "reason")
        result = predictor.predict_named([self.prepare(image)], **request)[0]
        return result.answer, result

    @as_hipie_errors()
    @one_at_a_time
    def refer_group(
        self, images: Iterable[ImageLike], expression: str, *, heatmaps: bool = False
    ) -> list[Segmentation]:
        """Segment the object that an expression describes in each of several images.

        A model with the task `group` compares all images, and images without the object have an
        empty mask; any other model segments image by image.

        Args:
            images: see `set_image`; at least one.
            expression: the referring expression.
            heatmaps: the results have `heatmaps`, for a model that compares all images.

        Raises:
            ValueError: if there is no image, or one that cannot be read; or if the model has no
                heatmaps.
        """
        images = image_list(images)
        if not isinstance(expression, str):
            raise InputError(
                f"refer_group needs one expression, a string, not {describe(expression)}"
            )
        if "group" not in self.model.tasks:
            if heatmaps:
                raise InputError(
                    "heatmaps need a model that compares the images of a group, and "
                    f"{type(self.model).__name__} segments image by image"
                )
            return [self.refer(image, expression) for image in images]
        prepared = [self.prepare(image) for image in images]
        predictor = self.task_predictor("group", "refer_group")
        request = {"heatmaps": True} if heatmaps else {}
        return predictor.predict_named(prepared, expression=expression, **request)

    @as_hipie_errors()
    @one_at_a_time
    def prompt(
        self, image: ImageLike | SetImage = SET_IMAGE, prompts: Sequence[Any] = ()
    ) -> Segmentation:
        """Segment the object of each prompt: clicks, a box, scribbles or a polygon.

        Args:
            image: see `set_image`; without it, the image that was set.
            prompts: each a dict with some of `inside`, `outside` (points), `box`, `scribbles`,
                `polygon` and `label`, in pixels; see `hipie_interactive.Prompt`.
        """
        predictor = self.task_predictor("interactive", "prompt")
        return predictor.predict_named([self.prepare(image)], prompts=prompts)[0]

    @as_hipie_errors()
    @one_at_a_time
    def like(
        self, image: ImageLike | SetImage = SET_IMAGE, examples: Sequence[Any] = ()
    ) -> Segmentation:
        """Segment the objects that example masks show: one segment for each label.

        Args:
            image: see `set_image`; without it, the image that was set.
            examples: each an (image, mask) or (image, mask, label), as files, PIL images or
                arrays; see `hipie_fewshot.Example`.
        """
        predictor = self.task_predictor("few_shot", "like")
        with read_by(rules_of(self.cfg)):
            return predictor.predict_named([self.prepare(image)], examples=examples)[0]

    def task_predictor(self, task: str, method: str = "") -> TaskPredictor:
        """Return the predictor that is registered for a task, built on this model.

        Args:
            task: a name in `TASK_PREDICTOR_REGISTRY`.
            method: the method for the error message; by default the task's name.

        Raises:
            ValueError: if the model does not have the task, naming configurations that do.
        """
        from hipie.task_predictors import TASK_PREDICTOR_REGISTRY

        registered = task in TASK_PREDICTOR_REGISTRY
        needed = TASK_PREDICTOR_REGISTRY.get(task).model_task if registered else task
        if needed not in self.model.tasks or not registered:
            names = ", ".join(model_zoo.configs_for_task(needed)) or "none that is installed"
            raise InputError(
                f"{type(self.model).__name__} cannot {method or task}(): "
                f"configurations whose model can are {names}"
            ).on_command_line(
                f"the model of this configuration, {type(self.model).__name__}, has not the task "
                f"{needed}; name one that has with --config-file: {names}"
            )
        if task not in self._predictors:
            self._predictors[task] = TASK_PREDICTOR_REGISTRY.get(task)(self.model)
        return self._predictors[task]

    @as_hipie_errors()
    def prepare(self, image: ImageLike | SetImage | PreparedImage = SET_IMAGE) -> PreparedImage:
        """Read an image and resize it as the model is tested, or return the one that was set.

        Args:
            image: see `set_image`; without it, the image that was set. One that is prepared is
                returned.

        Raises:
            ValueError: if there is neither, or it is not an image. None is not an image either,
                also after `set_image`: it comes from a file that could not be read.
        """
        from hipie.task_predictors import PreparedImage

        if isinstance(image, PreparedImage):
            return image
        if not isinstance(image, SetImage):
            pixels = to_rgb_array(image, self.cfg.INPUT.MAX_PIXELS)
            return self._resize(pixels, image_file_name(image))
        if self._image is None:
            raise InputError("there is no image: pass one, or call set_image first")
        return self._image

    def _read_classes(self, things: Names, stuff: Names, parts: Parts | str | None) -> ClassRequest:
        from hipie.task_predictors.class_names import ClassNameReader

        if self._class_names is None:
            self._class_names = ClassNameReader(self.model, self.cfg.MODEL.HIPIE.TEXT.SOURCE)
        return self._class_names.read(things, stuff, parts, self.vocabulary)

    def _resize(self, pixels: NDArray[Any], file_name: str) -> PreparedImage:
        from hipie.data.dataset_mappers.transforms import inputs_at_test_size
        from hipie.task_predictors import PreparedImage

        return PreparedImage(self.model, pixels, inputs_at_test_size(pixels, self.cfg), file_name)

    def _set_pixels(self, pixels: NDArray[Any], file_name: str) -> None:
        from hipie.task_predictors import TASK_PREDICTOR_REGISTRY

        image = self._resize(pixels, file_name)
        for task, predictor in TASK_PREDICTOR_REGISTRY:
            if predictor.model_task in self.model.tasks:
                self.task_predictor(task).encode(image)
        self._image = image
