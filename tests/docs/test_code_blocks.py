"""Every block of Python in the documents runs.

Files of the reader's are made beforehand, and large weights are replaced by small random ones.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PHOTOGRAPHS = ROOT / "hipie/examples/photographs"
DOCUMENTS = [
    document
    for document in sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")]
    )
    if BLOCK.search(document.read_text(encoding="utf-8"))
]


@dataclass
class Setting:
    """What the blocks of a document need.

    Attributes:
        files: images to make, by name.
        names: values of names that the blocks use and the text describes.
        replaced: parts of the blocks and what stands for them here.
        prepare: called in the empty folder before the blocks.
        elsewhere: numbers of blocks that another test runs, `path::test`.
    """

    files: tuple[str, ...] = ()
    names: Callable[[], dict[str, Any]] = dict
    replaced: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    elsewhere: dict[int, str] = field(default_factory=dict)


def masks_and_image() -> dict[str, Any]:
    """Two masks of an image, as `docs/open_vocabulary.md` describes them."""
    height, width = Image.open("image.jpg").size[::-1]
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, : height // 2], masks[1, height // 2 :] = True, True
    return {"image": torch.rand(3, height, width), "masks": masks}


def save_support_mask() -> None:
    """The object of `support.jpg`."""
    width, height = Image.open("support.jpg").size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    Image.fromarray(mask).save("support_mask.png")


def save_trained_folder() -> None:
    """A folder like that of a training, and an image of its data set."""
    from hipie import Segmenter, Vocabulary

    vocabulary = Vocabulary.from_names(things=["bottle", "box"])
    Segmenter.from_pretrained("hipie-nano-picturebook").save_pretrained("output/shelf", vocabulary)
    Path("shelf/images").mkdir(parents=True)
    shutil.copy(PHOTOGRAPHS / "cat.jpg", "shelf/images/1.jpg")
    width, height = Image.open("shelf/images/1.jpg").size
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": height, "width": width}],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("bottle", "tin", "box"))],
    }
    Path("shelf/train.json").write_text(json.dumps(content))


def refersam() -> dict[str, Any]:
    """A model with random weights, and what it takes."""
    from hipie import model_zoo

    model = model_zoo.get("refersam/refersam_nano_picturebook.yaml", trained=False)
    return {
        "model": model,
        "images": torch.rand(1, 3, 128, 128),
        "token_ids": torch.randint(1000, 2000, (1, 8)),
        "token_mask": torch.ones(1, 8, dtype=torch.bool),
    }


def save_refersam() -> None:
    """Weights of a training."""
    torch.save({"model": refersam()["model"].state_dict()}, "model_final.pth")


def save_cris() -> None:
    """Random weights of a small CRIS."""
    from detectron2.modeling import build_model

    from hipie import model_zoo

    file = ROOT / "projects/TrainedCLIP/configs/cris_random.yaml"
    model = build_model(model_zoo.get_config(str(file)))
    torch.save({"model": model.state_dict()}, "model_final.pth")


def save_reasoning() -> None:
    """Random weights of a small `ReasoningSeg`."""
    from detectron2.modeling import build_model

    from hipie import model_zoo

    cfg = model_zoo.get_config("hipie_reasoning/reasoning_nano_picturebook.yaml")
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, "model_final.pth")


class ScriptedChat:
    """A chat model that names a thing."""

    def complete(self, prompt: str, image: Any, schema: Any) -> str:
        return json.dumps({"answer": "An umbrella.", "things": ["umbrella"], "stuff": []})


def group_features() -> dict[str, Any]:
    """Features of three images and of an expression."""
    return {"V": torch.rand(3, 8, 6, 6), "l": torch.rand(8), "l_anti": torch.rand(8)}


def mask_of(number: int) -> dict[str, Any]:
    """A rectangle as run lengths."""
    mask = np.zeros((60, 80), np.uint8)
    mask[5 * number : 40, 10:50] = 1
    return mask_util.encode(np.asfortranarray(mask))


def register_expressions() -> None:
    """A data set of one image with two expressions, in the form of RefCOCO's records."""
    record = {
        "file_name": "1.jpg",
        "image_id": 1,
        "height": 60,
        "width": 80,
        "annotations": [
            {"id": n, "segmentation": mask_of(n), "bbox": [10, 5 * n, 40, 40 - 5 * n]}
            for n in (1, 2)
        ],
        "expressions": [
            {"expression": name, "sent_id": n, "targets": [n]}
            for n, name in enumerate(("the cup", "the small cup"))
        ],
    }
    DatasetCatalog.register("two_expressions", lambda: [record])
    MetadataCatalog.get("two_expressions").set(task="referring", evaluator_type="refer")


SAM = {'"vit_b", "sam_vit_b_01ec64.pth"': '"random:tiny"'}
SETTINGS = {
    "README.md": Setting(
        files=("image.jpg",),
        elsewhere={1: "tests/test_documents.py::test_readme_example_of_a_training_loop_runs"},
    ),
    "docs/ablations.md": Setting(names=lambda: {"build_components": lambda cfg: {}}),
    "docs/evaluation.md": Setting(
        prepare=register_expressions,
        names=lambda: {"rle_of": lambda expression: mask_of(1)},
        replaced={'"refcoco_unc_val"': '"two_expressions"'},
    ),
    "docs/many_images.md": Setting(
        files=("a.jpg", "b.jpg"), prepare=lambda: Path("list.txt").write_text("a.jpg b.jpg")
    ),
    "docs/open_vocabulary.md": Setting(
        files=("image.jpg",),
        names=masks_and_image,
        replaced={'"ViT-B-16", "openai"': '"random:tiny"', **SAM},
    ),
    "docs/ops.md": Setting(names=lambda: {"model": lambda **inputs: inputs, "inputs": {}}),
    "docs/picture_book.md": Setting(),
    "docs/published_weights.md": Setting(
        files=("street.jpg",), replaced={'"hipie-r50"': '"hipie-nano-photos"'}
    ),
    "docs/serve.md": Setting(),
    "docs/your_own_data.md": Setting(prepare=save_trained_folder),
    "projects/Classical/README.md": Setting(files=("page.png",)),
    "projects/FewShot/README.md": Setting(
        files=("support.jpg", "query.jpg"),
        prepare=save_support_mask,
        replaced={
            "matcher_coco_20i_fold0.yaml": "matcher_random_picturebook.yaml",
            '"sam_vit_h_4b8939.pth"': '""',
            '"dinov2_vitl14_pretrain.pth"': '""',
        },
    ),
    "projects/GRSer/README.md": Setting(
        files=("1.jpg", "2.jpg", "3.jpg"), names=group_features, replaced={".show()": ""}
    ),
    "projects/Interactive/README.md": Setting(files=("photo.jpg",), replaced=SAM),
    "projects/Peers/README.md": Setting(
        files=("street.jpg",),
        replaced={
            'from_pretrained("clipseg-rd64")': 'from_config("hipie_peers/clipseg_random.yaml")'
        },
    ),
    "projects/ProposalCLIP/README.md": Setting(
        files=("street.jpg",),
        replaced={
            "fcclip_convnext_large.yaml": "kmeans_random.yaml",
            ', weights="fcclip_cocopan.pth"': "",
        },
    ),
    "projects/Reasoning/README.md": Setting(
        files=("page.jpg", "photo.jpg"),
        names=lambda: {"chat": ScriptedChat()},
        prepare=save_reasoning,
        replaced={'"Qwen/Qwen2.5-VL-3B-Instruct"': "chat"},
    ),
    "projects/ReferSAM/README.md": Setting(
        files=("page.jpg",),
        names=refersam,
        prepare=save_refersam,
        replaced={
            "    ..., returned": "    images, token_ids, token_mask, returned",
            "projects/ReferSAM/configs/": "refersam/",
        },
    ),
    "projects/TrainedCLIP/README.md": Setting(
        files=("street.jpg",),
        prepare=save_cris,
        replaced={"cris_r50_refcoco.yaml": "cris_random.yaml"},
    ),
    "projects/TrainingFree/README.md": Setting(
        files=("street.jpg",), replaced={"sclip_vit_b16.yaml": "sclip_random.yaml"}
    ),
}


def name_of(document: Path) -> str:
    """Path from the root of the repository."""
    return document.relative_to(ROOT).as_posix()


def blocks_of(document: Path, setting: Setting) -> dict[int, str]:
    """The blocks that run here, with what stands for large weights."""
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    replaced = []
    for block in blocks:
        for old, new in setting.replaced.items():
            block = block.replace(old, new)
        replaced.append(re.sub(r'"(projects/\w+/configs/)', rf'"{ROOT.as_posix()}/\1', block))
    for old in setting.replaced:
        assert any(old in block for block in blocks), f"{name_of(document)} has no {old}"
    return {n: block for n, block in enumerate(replaced) if n not in setting.elsewhere}


def test_every_document_with_python_has_a_setting():
    assert {name_of(document) for document in DOCUMENTS} == {*SETTINGS, "CONTRIBUTING.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_tests_that_run_other_blocks_exist(document):
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    for number, test in SETTINGS.get(name_of(document), Setting()).elsewhere.items():
        assert number < len(blocks)
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if name_of(d) in SETTINGS], ids=name_of)
def test_blocks_of_python_run(document, in_tmp):
    setting = SETTINGS[name_of(document)]
    for file in setting.files:
        Image.open(PHOTOGRAPHS / "dog.jpg").resize((700, 400)).save(file)
    before = set(DatasetCatalog.list())
    try:
        setting.prepare()
        names = {"__name__": "document", **setting.names()}
        for number, block in blocks_of(document, setting).items():
            exec(compile(block, f"{name_of(document)}, block {number}", "exec"), names)
    finally:
        for added in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(added)
            MetadataCatalog.remove(added)


@pytest.mark.slow
def test_blocks_of_the_extensions_run(tmp_path):
    """In a process of their own, since they register names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    program = "\n".join(BLOCK.findall(text))
    # `from __future__` is the file's own; annotations name types that the text leaves out.
    file = tmp_path / "extensions.py"
    file.write_text(f"from __future__ import annotations\n{program}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
