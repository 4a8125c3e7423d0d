"""Models by name: where their weights come from, what they are for, and under which licence.

`MODELS` is the table. A project adds its own by `register_model`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec

from hipie.errors import InputError, MissingPackageError

MAX_SUGGESTIONS = 5
META_FOLDER = "https://dl.fbaipublicfiles.com/"
SAM_FOLDER = f"{META_FOLDER}segment_anything/"
OFFICIAL_REPOSITORY = "KonstantinosKK/HIPIE"
SWIN_FOLDER = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
_GITHUB = "https://github.com/"
_R50 = "r50|resnet_?-?50"
_BACKBONE = "a backbone, as start of a training"


class ModelError(InputError):
    """A model that is unknown, or whose weights are not available; the message names it."""


@dataclass(frozen=True)
class PackagedFile:
    """Weights that an installed package contains for the model's configuration.

    Attributes:
        sha256: of the file.
    """

    sha256: str


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face hub.

    Attributes:
        repository: "owner/name".
        file: its path in the repository; "" if it is found in the list of the repository's files.
        others: without `file`, pattern of the names of other models' files in the repository.
        keyword: likewise, of the name of this model's, if several remain.
        revision: commit; "" for the one that is the newest at the first use, which is recorded.
        sha256: of the file; "" for that of the hub's metadata, which is recorded.
        size: in bytes; 0 if unknown.
        companions: further files that a loader reads beside it, as names or as patterns
            (`fnmatch`) of names in the folder of `file`.
    """

    repository: str
    file: str = ""
    others: str = ""
    keyword: str = ""
    revision: str = ""
    sha256: str = ""
    size: int = 0
    companions: tuple[str, ...] = ()


@dataclass(frozen=True)
class UrlFile:
    """A file at an address.

    Attributes:
        url: `https://...`.
        sha256: "" if only the beginning of the MD5 is published.
        size: in bytes; 0 if unknown.
        md5_start: the first digits of the MD5.
    """

    url: str
    sha256: str = ""
    size: int = 0
    md5_start: str = ""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: such as "hipie-r50".
        task: what it is for, in a few words.
        source: of its weights.
        licence: of the weights, as their publisher states it.
        config: configuration of a model that segments; "" for weights of a part of models.
        backbone: with `config`, description of the backbone that the weights have, as in
            `hipie.checkpoint.load.BACKBONES`; "" = not checked.
        layout: with `config`, name of the layout of the file, as converters name it.
        requires: module that its use needs, and the optional dependency group that installs it.
        source_key: with `config`, key of the configuration that gets the model's name, of
            architectures that load the folder of the weights themselves; "" = the weights are
            loaded as a checkpoint.
        sam_type: of Segment Anything models, their type for `load_sam`.
    """

    name: str
    task: str
    source: PackagedFile | HubFile | UrlFile
    licence: str
    config: str = ""
    backbone: str = ""
    layout: str = ""
    requires: tuple[str, str] = ("", "")
    source_key: str = ""
    sam_type: str = ""

    @property
    def is_packaged(self) -> bool:
        """Whether an installed package contains the weights."""
        return isinstance(self.source, PackagedFile)

    @property
    def is_package_missing(self) -> bool:
        """Whether the package with which the weights are used is not installed."""
        return bool(self.requires[0]) and find_spec(self.requires[0]) is None

    def require_package(self) -> None:
        """Check that the package with which the weights are used is installed.

        Raises:
            MissingPackageError: with the command that installs it.
        """
        module, extra = self.requires
        if self.is_package_missing:
            raise MissingPackageError(
                f"{self.name} needs the package {module}, which is not installed: "
                f'pip install "hipie[{extra}]"'
            )

    def require_config(self) -> str:
        """Return the configuration of a model that segments.

        Raises:
            ModelError: for weights of a part of models.
        """
        if self.config:
            return self.config
        usable = ", ".join(name for name, model in MODELS.items() if model.config)
        raise ModelError(
            f"{self.name} are weights for {self.task}, not a model that segments by text; "
            f"those are {usable}"
        )


MODELS: dict[str, Model] = {}


def register_model(model: Model) -> None:
    """Add a model to the table, in place of one of the same name."""
    MODELS[model.name] = model


def packaged_model(
    name: str, config: str, task: str, sha256: str, licence: str = "Apache-2.0"
) -> Model:
    """Return the row of a model whose weights are in an installed package, under its licence.

    Args:
        name: such as "hipie-nano-picturebook".
        config: name of its configuration, for which `register_weights` knows the file.
        task: see `Model`.
        sha256: of the file of weights.
        licence: of the weights.
    """
    return Model(name, task, PackagedFile(sha256), licence, config)


def find_model(name: str) -> Model:
    """Return a model of the table.

    Raises:
        ModelError: for an unknown name, with similar ones.
    """
    if name in MODELS:
        return MODELS[name]
    raise ModelError(f'there is no model "{name}"; {similar_models(name)}')


def similar_models(name: str) -> str:
    """Name the models of the table that are similar to a name, as the end of a message."""
    key = name.lower().replace("_", "-").rpartition("/")[2].removesuffix(".yaml")
    containing = [known for known in MODELS if len(key) > 2 and (key in known or known in key)]
    similar = [*containing, *difflib.get_close_matches(key, MODELS, MAX_SUGGESTIONS, 0.5)]
    unique = list(dict.fromkeys(similar))[:MAX_SUGGESTIONS]
    if unique:
        return f"similar names are {', '.join(unique)}"
    return f"there are {', '.join(MODELS)}"


def packaged_models() -> list[str]:
    """Names of the models whose weights are installed with the package or a project."""
    return [name for name, model in MODELS.items() if model.is_packaged]


def _official(name: str, config: str, source: HubFile, backbone: str) -> Model:
    """Row of a checkpoint that the authors of HIPIE published; they state no licence for it."""
    task, licence = "things, stuff, parts, expressions", "not stated (code MIT)"
    return Model(name, task, source, licence, config, backbone, "official HIPIE")


def _sam(name: str, file: str, size: int, sha256: str) -> Model:
    """Row of a model of Segment Anything's authors."""
    source = UrlFile(f"{SAM_FOLDER}{file}", sha256, size)
    kind = name.removeprefix("sam-").replace("-", "_")
    return _any_sam(name, kind, source, "SAM", "Apache-2.0")


def _any_sam(name: str, kind: str, source: UrlFile, family: str, licence: str) -> Model:
    """Row of a model with prompts.

    Args:
        name: of the row.
        kind: type for `load_sam`.
        source: of the weights.
        family: name of the method.
        licence: of the weights.
    """
    task = f"clicks, boxes and refinement of masks ({family})"
    requires = ("segment_anything", "sam")
    return Model(name, task, source, licence, requires=requires, sam_type=kind)


def _clip(name: str, repository: str) -> Model:
    """Row of a CLIP of OpenAI in open_clip's format."""
    source = HubFile(repository, "open_clip_model.safetensors")
    return Model(name, "class scores (CLIP)", source, "MIT", requires=("open_clip", "clip"))


def _dinov2(name: str, repository: str) -> Model:
    """Row of a DINOv2 in timm's format."""
    source = HubFile(repository, "model.safetensors", companions=("config.json",))
    return Model(name, "image features (DINOv2)", source, "Apache-2.0")


def _swin(name: str, file: str) -> Model:
    """Row of a Swin transformer that its authors trained on ImageNet."""
    return Model(name, _BACKBONE, UrlFile(f"{SWIN_FOLDER}{file}"), "MIT")


# The table: one line a model. Sizes in bytes. Where no sha256 is published, that of the server's
# metadata, or of the first download, is recorded at the first use.
for _model in (
    packaged_model(
        "hipie-nano-photos",
        "nano/hipie_nano_photos.yaml",
        "things, stuff, parts, expressions of photographs",
        "5c6c535f44dd690c36d7080a009910aa604859e70bf335307ea9227538c0a7f2",
        "Apache-2.0; some training data for research only",
    ),
    packaged_model(
        "hipie-nano-picturebook",
        "nano/hipie_nano_picturebook.yaml",
        "things, stuff, parts, expressions of drawn pages",
        "ebb85ae6dd80ac2c64455e50eacd5e4d0f6b659f6d49753087263045c4f244af",
    ),
    _official(
        "hipie-r50",
        "universal/hipie_r50.yaml",
        HubFile(
            OFFICIAL_REPOSITORY,
            "r50_parts.pth",
            revision="2bde18e63ba0db6afdd2e3d0ec90d3d53c3de6cc",
            sha256="8c2e22a0cb2101cc1250552691b992b322be8a81c2c0a527da023b76c7d900a8",
            size=2_370_897_199,
        ),
        "a ResNet",
    ),
    _official(
        "hipie-vit-h-paco",
        "universal/hipie_vit_h.yaml",
        HubFile(OFFICIAL_REPOSITORY, others=f"{_R50}|parts|pascal", keyword="paco"),
        "a ViT",
    ),
    _official(
        "hipie-vit-h-parts",
        "universal/hipie_vit_h.yaml",
        HubFile(OFFICIAL_REPOSITORY, others=f"{_R50}|paco", keyword="parts|pascal"),
        "a ViT",
    ),
    _sam(
        "sam-vit-b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "sam-vit-l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "sam-vit-h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    *(
        _any_sam(
            f"sam2-hiera-{size.replace('_', '-')}",
            f"sam2_hiera_{size}",
            UrlFile(f"{META_FOLDER}segment_anything_2/092824/sam2.1_hiera_{size}.pt"),
            "SAM 2.1",
            "Apache-2.0",
        )
        for size in ("tiny", "small", "base_plus", "large")
    ),
    _any_sam(
        "mobile-sam",
        "mobile_sam",
        UrlFile(f"{_GITHUB}ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt"),
        "MobileSAM",
        "Apache-2.0",
    ),
    _any_sam(
        "edge-sam-3x",
        "edge_sam",
        UrlFile(
            "https://huggingface.co/spaces/chongzhou/EdgeSAM/resolve/main/weights/edge_sam_3x.pth"
        ),
        "EdgeSAM",
        "S-Lab License 1.0, non-commercial",
    ),
    _any_sam(
        "efficient-sam-ti",
        "efficient_sam_ti",
        UrlFile(f"{_GITHUB}yformer/EfficientSAM/raw/main/weights/efficient_sam_vitt.pt"),
        "EfficientSAM",
        "Apache-2.0",
    ),
    _clip("clip-vit-b-16", "timm/vit_base_patch16_clip_224.openai"),
    _clip("clip-vit-l-14", "timm/vit_large_patch14_clip_224.openai"),
    _clip("clip-vit-l-14-336", "timm/vit_large_patch14_clip_336.openai"),
    Model(
        "bert-base-uncased",
        "text encoder (BERT)",
        HubFile(
            "google-bert/bert-base-uncased",
            "model.safetensors",
            revision="86b5e0934494bd15c9632b12f734a8a67f723594",
            sha256="68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
            size=440_449_768,
            companions=("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
        ),
        "Apache-2.0",
    ),
    _dinov2("dinov2-vit-b-14", "timm/vit_base_patch14_dinov2.lvd142m"),
    _dinov2("dinov2-vit-l-14", "timm/vit_large_patch14_dinov2.lvd142m"),
    Model("swin-t", _BACKBONE, UrlFile(f"{SWIN_FOLDER}swin_tiny_patch4_window7_224.pth"), "MIT"),
    Model(
        "swin-b", _BACKBONE, UrlFile(f"{SWIN_FOLDER}swin_base_patch4_window12_384_22k.pth"), "MIT"
    ),
    Model(
        "swin-l", _BACKBONE, UrlFile(f"{SWIN_FOLDER}swin_large_patch4_window12_384_22k.pth"), "MIT"
    ),
    Model(
        "mae-vit-h",
        _BACKBONE,
        UrlFile(f"{META_FOLDER}mae/pretrain/mae_pretrain_vit_huge.pth", md5_start="9bdbb0"),
        "CC-BY-NC-4.0",
    ),
    Model(
        "mae-vit-h-p16",
        f"{_BACKBONE} (patches of 16 pixels)",
        UrlFile(
            f"{META_FOLDER}detectron2/ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth"
        ),
        "CC-BY-NC-4.0",
    ),
    Model(
        "r50",
        _BACKBONE,
        UrlFile(f"{META_FOLDER}detectron2/ImageNetPretrained/torchvision/R-50.pkl"),
        "BSD-3-Clause",
    ),
):
    register_model(_model)
