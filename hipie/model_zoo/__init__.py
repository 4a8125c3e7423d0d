"""Configurations that come with the package, and weights for some of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CONFIGS, WEIGHTS = FOLDER / "configs", FOLDER / "weights"


def names() -> list[str]:
    """All configurations by name, such as "nano/hipie_nano_picturebook.yaml"."""
    files = (path.relative_to(CONFIGS) for path in CONFIGS.glob("**/*.yaml"))
    return sorted(path.as_posix() for path in files if not path.name.startswith("Base-"))


def get_config_file(name: str) -> Path:
    """The file of a configuration.

    Args:
        name: of this zoo, with or without ".yaml" and folder, or a file.

    Raises:
        ValueError: if there is neither, with the nearest names.
    """
    if Path(name).is_file():
        return Path(name)
    wanted = name if name.endswith(".yaml") else f"{name}.yaml"
    wanted = wanted.removeprefix("configs/")
    for known in names():
        if wanted in (known, Path(known).name):
            return CONFIGS / known
    near = difflib.get_close_matches(wanted, names(), 3, 0.4) or names()
    raise ValueError(f'there is no configuration "{name}"; near ones are {", ".join(near)}')


def get_config(name: str, options: Sequence[Any] = ()) -> Any:
    """A configuration, all keys of this package and of installed projects included.

    Args:
        name: see `get_config_file`.
        options: KEY VALUE KEY VALUE ..., which override the file.

    Raises:
        ValueError: for an unknown name, key or value; the message names it.
    """
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config
    from hipie.configure import merge
    from hipie.plugins import load_projects

    cfg = get_cfg()
    add_hipie_config(cfg)
    load_projects(cfg)
    merge(cfg, get_config_file(name), options)
    return cfg


def get_weights(name: str) -> Path | None:
    """The file of the weights that the package carries for a configuration, or None.

    They are called like the configuration, in the folder `weights`.
    """
    stem = get_config_file(name).stem
    files = (WEIGHTS / f"{stem}{ending}" for ending in (".safetensors", ".pth"))
    return next((path for path in files if path.is_file()), None)


def get(name: str, trained: bool = True) -> Any:
    """Build the model of a configuration, in evaluation mode, on the CPU if there is no GPU.

    Args:
        name: see `get_config_file`.
        trained: load the configuration's weights, or those that the package carries for it.

    Raises:
        ValueError: if trained weights are asked for and there are none.
    """
    import torch
    from detectron2.modeling import build_model

    import hipie.universal
    import hipie.vision  # noqa: F401
    from hipie.checkpoint import Checkpointer

    cfg = get_config(name)
    weights = (cfg.MODEL.WEIGHTS or get_weights(name)) if trained else None
    if trained and not weights:
        raise ValueError(f"the package carries no weights for {name}; trained=False does without")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    if weights:
        Checkpointer(model).load(str(weights))
    return model


def configs_for_task(task: str) -> list[str]:
    """Configurations whose architecture can do a task ("universal", "referring", ...)."""
    from detectron2.modeling import META_ARCH_REGISTRY

    import hipie.universal  # noqa: F401

    able = []
    for name in names():
        try:
            architecture = META_ARCH_REGISTRY.get(get_config(name).MODEL.META_ARCHITECTURE)
        except KeyError:
            continue
        if task in getattr(architecture, "tasks", ()):
            able.append(name)
    return able
