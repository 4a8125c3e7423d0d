"""Mutate files of every format, and check that reading one ends in a value or in one sentence.

    python tests/fuzzing.py coco 30 output/fuzzing [--seed 0]

Reader, seconds, and the folder in which failing files are kept. The process limits its own address
space, and an alarm ends a file that takes too long; both are failures. The last line of the output
is in JSON: the number of files, how many were read and refused, and the failures.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import os
import pickle
import random
import resource
import signal
import sys
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

MEMORY = 1 << 30
"""Bytes of address space beyond those of the imported libraries."""
SECONDS = 10
MESSAGE = 3000
ROOT = Path(__file__).parents[1]
# Copied where they are used: a list that another mutation changes in place would contain itself.
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        255,
        256,
        65535,
        2**31,
        2**32,
        2**63,
        -(2**63),
        10**30,
        10**400,
    ),
    *(
        0.5,
        -0.0,
        1e-320,
        1e308,
        float("inf"),
        float("nan"),
        "",
        "0",
        "a" * 5000,
        "../../x",
        "/etc/passwd",
    ),
    *(
        "\x1b[2J",
        "a\nb",
        "\0",
        "\u202e",
        "\ud800",
        "İ",
        "null",
        "NaN",
        "1e9",
        "test",
        [],
        {},
        [[]],
        [None],
    ),
    *([0, 0, 0, 0], [[1, 2, 3, 4, 5, 6]], {"size": [4, 4], "counts": [16]}, {"a": {"a": {}}}),
    {"size": [60000, 60000], "counts": [3600000000]},
    {"size": [4, 4], "counts": "PPPPPPPPPPP"},
]


class TooSlow(BaseException):
    """A file took more than `SECONDS`; no reader catches it."""


@dataclass(frozen=True)
class Reader:
    """How files of a format are made and read.

    Attributes:
        make: writes files below a folder and returns those that are mutated.
        read: reads the files of a folder.
        structured: whether a file is JSON, a pickle or YAML, whose values are exchanged as well.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    structured: bool = False


def image(path: Path, mode: str = "RGB", **options: Any) -> Path:
    """Write an image of 24x16 pixels in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 4, (16, 24, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(), mode if mode != "P" else "L").save(path, **options)
    return path


def coco_content() -> dict[str, Any]:
    """COCO's format with polygons, a crowd, and every optional field."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8], "iscrowd": 0, "area": 64}
    box["segmentation"] = [[4, 4, 12, 4, 12, 12, 4, 12]]
    crowd = {
        **box,
        "id": 2,
        "iscrowd": 1,
        "segmentation": {"size": [16, 24], "counts": [4, 8, 372]},
    }
    coded = {**box, "id": 3, "category_id": 2}
    coded["segmentation"] = {"size": [16, 24], "counts": "T2880000000000000l5"}
    return {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
        "annotations": [box, crowd, coded],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat", "supercategory": "pet"}],
    }


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def make_coco(folder: Path) -> list[Path]:
    image(folder / "a.png")
    return [write_json(folder / "data.json", coco_content())]


def read_coco(folder: Path) -> object:
    from hipie.data.datasets.coco_instances import load_coco_instances

    return load_coco_instances(folder / "data.json", folder)


def make_lvis(folder: Path) -> list[Path]:
    content = coco_content()
    image(folder / "val2017/a.png")
    del content["images"][0]["file_name"]
    content["images"][0] |= {"coco_url": "http://x/val2017/a.png", "neg_category_ids": [2]}
    content["images"][0]["not_exhaustive_category_ids"] = [1]
    content["annotations"] = content["annotations"][:1]
    return [write_json(folder / "data.json", content)]


def read_lvis(folder: Path) -> object:
    from hipie.data.datasets.lvis import load_lvis

    return load_lvis(folder / "data.json", folder, {1: 0, 2: 1})


def make_panoptic(folder: Path) -> list[Path]:
    image(folder / "a.jpg")
    colours = np.zeros((16, 24, 3), dtype=np.uint8)
    colours[:8, :, 0], colours[8:, :, 0] = 1, 2
    (folder / "maps").mkdir()
    Image.fromarray(colours).save(folder / "maps/a.png")
    segments = [
        {"id": i, "category_id": i, "iscrowd": 0, "area": 192, "bbox": [0, 0, 24, 8]}
        for i in (1, 2)
    ]
    content = coco_content()
    content["images"][0]["file_name"] = "a.jpg"
    content["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]
    content["categories"] = [{**c, "isthing": 1} for c in content["categories"]]
    return [write_json(folder / "data.json", content), folder / "maps/a.png"]


def read_panoptic(folder: Path) -> object:
    from hipie.data.datasets.coco_panoptic import load_coco_panoptic

    return load_coco_panoptic(folder / "data.json", folder / "maps", folder, {1: 0, 2: 1})


def make_refcoco(folder: Path) -> list[Path]:
    image(folder / "a.png")
    texts = [{"raw": "the dog", "sent": "the dog", "sent_id": 1, "tokens": ["the", "dog"]}]
    ref = {"ref_id": 1, "ann_id": 1, "image_id": 1, "category_id": 1, "split": "val"}
    refs = [{**ref, "sentences": texts, "file_name": "a_1.png", "sent_ids": [1]}]
    (folder / "refs.p").write_bytes(pickle.dumps(refs, 2))
    return [folder / "refs.p", write_json(folder / "instances.json", coco_content())]


def read_refcoco(folder: Path) -> object:
    from hipie.data.datasets.refcoco import load_refcoco

    return load_refcoco(folder / "refs.p", folder / "instances.json", folder, "val")


def make_uninext(folder: Path) -> list[Path]:
    content = coco_content()
    image(folder / "a.png")
    content["images"][0] |= {"expressions": ["the dog"], "dataset_name": "refcoco"}
    content["annotations"] = content["annotations"][:1]
    return [write_json(folder / "data.json", content)]


def read_uninext(folder: Path) -> object:
    from hipie.data.datasets.uninext_refer import load_uninext_refer

    return load_uninext_refer(folder / "data.json", folder)


def make_matlab(folder: Path) -> list[Path]:
    part = np.array([(b"head", np.eye(8, dtype=np.uint8))], dtype=[("name", "O"), ("mask", "O")])
    content = {"anno": {"objects": part, "imname": "a"}, "LabelMap": np.eye(9, dtype=np.uint16)}
    scipy.io.savemat(folder / "plain.mat", content)
    scipy.io.savemat(folder / "packed.mat", content, do_compression=True)
    return [folder / "plain.mat", folder / "packed.mat"]


def read_matlab_files(folder: Path) -> object:
    from hipie.data.io.matlab import read_matlab

    return [read_matlab(folder / name) for name in ("plain.mat", "packed.mat")]


IMAGES = ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm", "avif")


def make_images(folder: Path) -> list[Path]:
    return [image(folder / f"a.{suffix}") for suffix in IMAGES]


def read_images(folder: Path) -> object:
    from hipie.data.image_io import read_image, to_rgb_array

    for suffix in IMAGES:
        read_image(folder / f"a.{suffix}")
        to_rgb_array((folder / f"a.{suffix}").read_bytes())
    return None


def make_maps(folder: Path) -> list[Path]:
    return [
        image(folder / "grey.png", "L"),
        image(folder / "colour.png"),
        image(folder / "m.tif", "L"),
    ]


def read_maps(folder: Path) -> object:
    from hipie.data import annotation_maps, image_io

    image_io.read_label_map(folder / "grey.png")
    annotation_maps.read_panoptic_map(folder / "colour.png")
    annotation_maps.read_class_map(folder / "grey.png")
    image_io.read_saliency_mask(folder / "m.tif")
    return None


def make_weights(folder: Path) -> list[Path]:
    state = {"a.weight": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.float16)}
    content = {"model": state, "iteration": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    arrays = {name: value.numpy() for name, value in state.items()}
    (folder / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    save_file(state, folder / "a.safetensors")
    return [folder / name for name in WEIGHTS]


WEIGHTS = ("zip.pth", "legacy.pth", "zoo.pkl", "a.safetensors")


def read_weights(folder: Path) -> object:
    from hipie.checkpoint.read import read_state

    return [read_state(folder / name) for name in WEIGHTS]


def make_config(folder: Path) -> list[Path]:
    (folder / "base.yaml").write_text((ROOT / "configs/nano/Base-nano.yaml").read_text())
    content = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    content["_BASE_"] = "base.yaml"
    (folder / "a.yaml").write_text(yaml.safe_dump(content))
    return [folder / "a.yaml", folder / "base.yaml"]


def read_config(folder: Path) -> object:
    from detectron2.config import get_cfg

    from hipie import add_hipie_config
    from hipie.config.loading import merge

    cfg = get_cfg()
    add_hipie_config(cfg)
    merge(cfg, folder / "a.yaml")
    return cfg


def make_names(folder: Path) -> list[Path]:
    (folder / "names.txt").write_text("dog\ncat,kitten\ntraffic light\n", encoding="utf-8")
    return [folder / "names.txt"]


def read_names(folder: Path) -> object:
    from hipie.data.datasets.class_names_file import read_class_names

    return read_class_names(folder / "names.txt")


def make_model_folder(folder: Path) -> list[Path]:
    from transformers import BertConfig, BertModel

    from hipie.modeling.text_encoder.tokenizer import minilm_folder

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 40}
    BertModel(BertConfig(**shape, intermediate_size=8), add_pooling_layer=False).save_pretrained(
        folder
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", ".", ","]
    tokenizer = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {word: number for number, word in enumerate(words)}
    tokenizer["added_tokens"] = []
    tokenizer["post_processor"] = None
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", settings)
    return [folder / n for n in ("config.json", "tokenizer.json", "tokenizer_config.json")]


def read_model_folder(folder: Path) -> object:
    from hipie.modeling.text_encoder.bert import BertTextEncoder
    from hipie.modeling.text_encoder.tokenizer import load_tokenizer

    load_tokenizer.cache_clear()
    return BertTextEncoder.from_source(str(folder))


def make_prompts(folder: Path) -> list[Path]:
    prompts = [
        {"inside": [[4, 4]], "outside": [[9, 9]], "box": [1, 1, 12, 12]},
        {"scribbles": [{"points": [[1, 1], [2, 2]], "inside": True}]},
    ]
    return [write_json(folder / "prompts.json", prompts)]


def read_prompts(folder: Path) -> object:
    from hipie.data.io.json_file import read_json
    from hipie_interactive.modeling.prompts import to_sam_prompt
    from hipie_interactive.session import parse_prompts

    content = read_json(folder / "prompts.json")
    return [to_sam_prompt(prompt, (16, 24)) for prompt in parse_prompts(content)]


def make_grd(folder: Path) -> list[Path]:
    """D3's four pickles: an image, its object, and two expressions of one group."""
    image(folder / "a.png")
    rle = {"size": [16, 24], "counts": b"T2880000000000000l5"}
    box = np.array([4.0, 4.0, 8.0, 8.0])
    tables: dict[str, dict[int, dict[str, Any]]] = {
        "images": {1: {"file_name": "a.png", "height": 16, "width": 24, "anno_id": [1]}},
        "annotations": {
            1: {"id": 1, "image_id": 1, "sent_id": [1], "segmentation": [rle], "bbox": box}
        },
        "sentences": {
            1: {"raw_sent": "the dog", "is_negative": False},
            2: {"raw_sent": "a dog without a leash", "is_negative": True},
        },
        "groups": {1: {"img_id": [1], "inner_sent_id": [1, 2], "group_name": "dogs"}},
    }
    for name, table in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table, 4))
    return [folder / f"{name}.pkl" for name in tables]


def read_grd(folder: Path) -> object:
    from hipie.data.datasets.grd import load_grd

    return [load_grd(folder, folder, inter_group=inter_group) for inter_group in (False, True)]


def make_groups(folder: Path) -> list[Path]:
    """Groups and refs of images with one mask file an object."""
    pairs = []
    for name in "ab":
        image(folder / f"{name}.png")
        mask = np.zeros((16, 24), np.uint8)
        mask[4:12, 4:12] = 255
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
        pairs.append({"image": f"{name}.png", "mask": f"{name}_mask.png"})
    groups = {
        "dogs": {"class": "dog", "train": [pairs[0]], "val": []},
        "cats": {"train": [pairs[1]]},
    }
    refs = [
        {**pairs[0], "class": "dog", "sentences": ["the dog", "a dog"]},
        {"image": "b.png", "sentences": ["a horse"]},
    ]
    return [
        write_json(folder / "groups.json", groups),
        write_json(folder / "refs.json", refs),
        folder / "a_mask.png",
    ]


def read_groups(folder: Path) -> object:
    from hipie.data.datasets.mask_files import load_groups, load_mask_refs
    from hipie.data.datasets.referring_format import register_referring

    register_referring("fuzzing_refs", folder / "refs.json", "", folder)
    groups = load_groups(folder / "groups.json", "train", folder, negatives=1)
    return groups, load_mask_refs(folder / "refs.json", folder)


def make_npz(folder: Path) -> list[Path]:
    arrays = {"a/kernel": np.ones((3, 4), np.float32), "b": np.zeros(2, np.float16)}
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return [folder / "plain.npz", folder / "packed.npz"]


def read_npz(folder: Path) -> object:
    """Whatever passes the check, NumPy reads within the limits, or refuses."""
    from hipie.checkpoint.error import CheckpointError
    from hipie.checkpoint.numpy_archive import check_numpy_archive

    for name in ("plain.npz", "packed.npz"):
        check_numpy_archive(folder / name)
        try:
            with np.load(folder / name) as archive:
                values = [archive[key] for key in archive.files]
        except (OSError, ValueError, LookupError, zlib.error, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{name}: NumPy refuses it ({type(error).__name__})") from error
        assert sum(value.nbytes for value in values) < 1 << 20
    return None


def make_sharded(folder: Path) -> list[Path]:
    from hipie.checkpoint.sharded import write_sharded

    state = {"a.weight": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.float16)}
    write_sharded(folder / "a.dcp", {"model": state, "iteration": 3, "hooks": [{"x": (1, None)}]})
    return sorted(path for path in (folder / "a.dcp").iterdir() if path.is_file())


def read_sharded_folder(folder: Path) -> object:
    from hipie.checkpoint.read import read_state

    return read_state(folder / "a.dcp")


def make_open_clip(folder: Path) -> list[Path]:
    from hipie.modeling.open_vocabulary import clip_loading

    clip, _ = clip_loading.load_clip("random:tiny")
    network = {**clip_loading._TINY, "text_cfg": dict(clip_loading._TINY["text_cfg"])}
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    content = {"model_cfg": network, "preprocess_cfg": preprocess}
    return [write_json(folder / "open_clip_config.json", content)]


def read_open_clip(folder: Path) -> object:
    from hipie.modeling.open_vocabulary.clip_loading import load_clip

    return load_clip(str(folder))


def make_vocabulary(folder: Path) -> list[Path]:
    classes = [
        {"name": "dog", "kind": "thing", "synonyms": ["dog", "puppy"]},
        {"name": "sky", "kind": "stuff"},
        {"name": "dog head", "kind": "part", "whole": "dog"},
    ]
    return [write_json(folder / "vocabulary.json", {"classes": classes})]


def read_vocabulary(folder: Path) -> object:
    from hipie.model_zoo.model_folder import folder_vocabulary

    return folder_vocabulary(folder)


def make_list(folder: Path) -> list[Path]:
    image(folder / "a.png")
    image(folder / "more/b.png")
    write_json(folder / "coco.json", coco_content())
    lines = ["a.png", "more", "*.png", "coco.json", "nowhere/c.png"]
    (folder / "list.txt").write_text("".join(f"{folder / line}\n" for line in lines))
    return [folder / "list.txt", folder / "coco.json"]


def read_list(folder: Path) -> object:
    from hipie.batch_inference.inputs import find_inputs

    return find_inputs([f"@{folder / 'list.txt'}"])


def make_run_folder(folder: Path) -> list[Path]:
    """The state of a run with one image of two segments, one of them with a part, and one error."""
    from hipie.batch_inference.records import ImageRecord
    from hipie.batch_inference.run_folder import RunFolder

    source = image(folder / "a.png")
    rle = {"size": [16, 24], "counts": "T2880000000000000l5"}
    part = {"category": "head", "kind": "part", "score": 0.5, "segmentation": rle}
    segments = [
        {"category": "dog", "kind": "thing", "score": 0.9, "segmentation": rle, "parts": [part]},
        {"category": "sky", "kind": "stuff", "score": 1, "segmentation": rle},
    ]
    size = {"file": str(source), "height": 16, "width": 24}
    record = ImageRecord("a", str(source), (100, 200), {"image": size, "segments": segments}, 1)
    with RunFolder(folder / "out", RUN) as run:
        run.add(record)
        run.add_video("/clip.mp4", 2, (1, 2), 3)
        run.add_error({"file": "/broken.png", "error": "it is damaged"})
    state = folder / "out/.hipie"
    return [
        *(state / name for name in ("records.jsonl", "settings.json", "classes.json")),
        folder / "out/errors.jsonl",
    ]


RUN = {"config": {"A": 1}, "things": ["dog"]}


def read_run_folder(folder: Path) -> object:
    from hipie.batch_inference.run_folder import RunFolder

    with RunFolder(folder / "out", RUN) as run:
        run.known_names()
        for record in run.records():
            assert all(segment.mask.shape == record.size for segment in record.walk())
        run.frames_of("/clip.mp4", 2, (1, 2))
        run.start_errors(["/other.png"])
        return run.category_ids()


READERS = {
    "coco": Reader(make_coco, read_coco, True),
    "lvis": Reader(make_lvis, read_lvis, True),
    "panoptic": Reader(make_panoptic, read_panoptic, True),
    "refcoco": Reader(make_refcoco, read_refcoco, True),
    "uninext": Reader(make_uninext, read_uninext, True),
    "matlab": Reader(make_matlab, read_matlab_files),
    "images": Reader(make_images, read_images),
    "maps": Reader(make_maps, read_maps),
    "weights": Reader(make_weights, read_weights),
    "config": Reader(make_config, read_config, True),
    "names": Reader(make_names, read_names),
    "model_folder": Reader(make_model_folder, read_model_folder, True),
    "prompts": Reader(make_prompts, read_prompts, True),
    "grd": Reader(make_grd, read_grd, True),
    "groups": Reader(make_groups, read_groups, True),
    "npz": Reader(make_npz, read_npz),
    "sharded": Reader(make_sharded, read_sharded_folder),
    "open_clip": Reader(make_open_clip, read_open_clip, True),
    "vocabulary": Reader(make_vocabulary, read_vocabulary, True),
    "list": Reader(make_list, read_list, True),
    "run_folder": Reader(make_run_folder, read_run_folder, True),
}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to eight changes: exchanged, removed, repeated, cut."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not changed:
            break
        at, count = rng.randrange(len(changed)), rng.choice((1, 1, 2, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + count] = rng.randbytes(count)
        elif kind == 2:
            del changed[at : at + count]
        elif kind == 3:
            changed[at:at] = changed[at : at + count] * rng.choice((1, 2, 50))
        elif kind == 4:
            changed[at : at + 4] = rng.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
            )
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def mutate_value(content: Any, rng: random.Random) -> Any:
    """Exchange, remove or repeat one value at a random place of lists and dicts, in place."""
    places: list[tuple[Any, Any]] = []
    open_containers = [content]
    while open_containers:
        container = open_containers.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            places.append((container, key))
            if isinstance(container[key], dict | list):
                open_containers.append(container[key])
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    container, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.7:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 0.8:
        del container[key]
    elif kind < 0.9 and isinstance(container, list):
        container.extend([container[key]] * rng.choice((1, 3, 100)))
    else:
        nested = container[key]
        for _ in range(rng.choice((1, 10, 2000))):
            nested = [nested]
        container[key] = nested
    return content


PICKLES = (".p", ".pkl")


def mutate_line(data: bytes, rng: random.Random) -> bytes:
    """Exchange, remove or repeat one value of a line of JSON."""
    lines = data.splitlines()
    position = rng.randrange(len(lines))
    lines[position] = json.dumps(mutate_value(json.loads(lines[position]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def mutate(data: bytes, path: Path, rng: random.Random) -> bytes:
    """Return another content for a file of a structured format."""
    try:
        if path.suffix == ".json":
            content = json.loads(data)
        elif path.suffix == ".jsonl":
            return mutate_line(data, rng)
        elif path.suffix in PICKLES:
            content = pickle.loads(data)
        elif path.suffix == ".yaml":
            content = yaml.safe_load(data)
        else:
            return mutate_bytes(data, rng)
        for _ in range(rng.choice((1, 1, 2, 3))):
            if isinstance(content, dict | list):
                content = mutate_value(content, rng)
        if path.suffix in PICKLES:
            return pickle.dumps(content, 2)
        if path.suffix == ".yaml":
            return yaml.safe_dump(content).encode("utf-8", "surrogatepass")
        return json.dumps(content).encode()
    except (RecursionError, ValueError, yaml.YAMLError):
        return mutate_bytes(data, rng)


def outcome(reader: Reader, folder: Path, seconds: int = 0) -> tuple[str, str]:
    """Read a folder and return what happened.

    Args:
        reader: of the format.
        folder: its files.
        seconds: after which an alarm ends it; 0 = none.

    Returns:
        "read" or "refused" with the message, or "failure" with a description.
    """
    from hipie.errors import HipieError

    signal.alarm(seconds)
    try:
        reader.read(folder)
    except HipieError as error:
        text = str(error)
        if not text or len(text.splitlines()) != 1 or len(text) > MESSAGE or not text.isprintable():
            return "failure", f"its message is not one sentence: {text[:500]!r}"
        return "refused", text
    except TooSlow:
        return "failure", f"more than {SECONDS} s\n{traceback.format_exc()[-1500:]}"
    except BaseException:  # noqa: BLE001 (PanicException of Rust is no Exception)
        return "failure", traceback.format_exc()[-1500:]
    finally:
        signal.alarm(0)
    return "read", ""


def raise_too_slow(*_: object) -> None:
    raise TooSlow


def limit_memory() -> None:
    """Limit the address space of this process to what it has and `MEMORY`."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reader, work = READERS[options.reader], options.folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    files = reader.make(work)
    seeds = {path: path.read_bytes() for path in files}
    reader.read(work)  # and import what it needs
    signal.signal(signal.SIGALRM, raise_too_slow)
    limit_memory()
    counts = {"files": 0, "read": 0, "refused": 0}
    failures: dict[str, str] = {}
    end = time.monotonic() + options.seconds
    armed = 0.0
    while time.monotonic() < end and len(failures) < 20:
        if time.monotonic() > armed + SECONDS:
            # The alarm waits for the end of compiled code; this does not, and says where it is.
            faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
            armed = time.monotonic()
        path = rng.choice(files)
        structured = reader.structured and rng.random() < 0.7
        data = mutate(seeds[path], path, rng) if structured else mutate_bytes(seeds[path], rng)
        path.write_bytes(data)
        # Whatever ends this process is then known.
        (options.folder / f"last-{path.name}").write_bytes(data)
        kind, text = outcome(reader, work, SECONDS)
        counts["files"] += 1
        if kind == "failure":
            case = options.folder / f"{options.reader}-{len(failures)}-{path.name}"
            case.write_bytes(data)
            lines = [line for line in text.splitlines() if line.strip()]
            if lines[-1] not in failures.values():
                failures[case.name] = lines[-1]
                print(f"{case}:\n{text}", file=sys.stderr)
        else:
            counts[kind] += 1
        path.write_bytes(seeds[path])
    print(json.dumps({**counts, "failures": failures}), flush=True)
    sys.stderr.flush()
    # The end of Python and of the libraries' threads, with little memory left, is not what is
    # tested; on a busy machine it takes longer than many files.
    os._exit(0)


if __name__ == "__main__":
    main()
