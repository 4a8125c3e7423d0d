"""Registration on import, and Detectron2's own programs on top of it, in new processes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.registration import import_modules

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests/tiny.yaml"


def run(program: str, *arguments: object) -> str:
    """Run a program in a new process, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_add_hipie_config_registers_everything_and_keeps_detectron2s_data_sets() -> None:
    output = run(
        """
        import detectron2.data.datasets
        from detectron2.config import get_cfg
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

        def content():
            return {name: (DatasetCatalog[name], MetadataCatalog.get(name).as_dict())
                    for name in builtin}

        builtin = DatasetCatalog.list()
        before = content()
        from hipie import add_hipie_config

        cfg = get_cfg()
        add_hipie_config(cfg)
        assert content() == before
        assert {"coco_2017_val", "lvis_v1_val", "ade20k_sem_seg_val"} <= set(builtin)
        for name in ("HIPIE", "GRSer", "ReferSAM", "InteractiveSAM", "FewShot", "MaskCLIP"):
            assert name in META_ARCH_REGISTRY, name
        for name in ("build_timm_backbone", "build_vit_backbone"):
            assert name in BACKBONE_REGISTRY, name
        for name in ("refcoco_unc_val", "picturebook_val_panoptic", "lvis_v1_val_federated"):
            assert name in DatasetCatalog, name
        assert cfg.MODEL.GRSER and cfg.MODEL.REFERSAM and cfg.MODEL.HIPIE
        print("registered")
        """
    )
    assert output == "registered\n"


def test_taking_the_segmenter_registers_nothing_before_a_model_is_built() -> None:
    output = run(
        """
        import sys
        from hipie import Segmenter
        from detectron2.data import DatasetCatalog

        print("refcoco_unc_val" in DatasetCatalog, "grser" in sys.modules)
        Segmenter.from_config("nano/hipie_nano_picturebook.yaml", device="cpu")
        print("refcoco_unc_val" in DatasetCatalog, "grser" in sys.modules)
        """
    )
    assert output.split() == ["False", "False", "True", "True"]


@pytest.fixture
def tiny_coco(tmp_path: Path) -> Path:
    """Folder with four images and their annotations in COCO's format."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        pixels = generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1 + number % 2,
                "bbox": [10, 10, 40, 30],
                "area": 1200,
                "iscrowd": 0,
                "segmentation": [[10, 10, 50, 10, 50, 40, 10, 40]],
            }
        )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


PLAIN_TRAIN_NET = """
import os, sys
import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from hipie import add_hipie_config

folder, config_file, text_encoder = sys.argv[1:]
setup_logger(folder)
register_coco_instances("pets", {}, f"{folder}/instances.json", folder)

cfg = get_cfg()
add_hipie_config(cfg)
cfg.merge_from_file(config_file)
cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("pets",)
cfg.MODEL.HIPIE.TEXT.SOURCE = text_encoder
cfg.MODEL.DEVICE = "cpu"
cfg.SOLVER.MAX_ITER = 2
cfg.OUTPUT_DIR = f"{folder}/output"
os.makedirs(cfg.OUTPUT_DIR)

class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)

trainer = Trainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
assert set(trainer._last_eval_results) == {"bbox", "segm"}

model = build_model(cfg)
DetectionCheckpointer(model).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
outputs = DefaultPredictor(cfg)(np.zeros((64, 96, 3), np.uint8))
assert {"instances", "sem_seg", "panoptic_seg"} <= set(outputs)
print("trained")
"""


def test_detectron2s_plain_training_program_runs(tiny_coco: Path, tiny_text: Path) -> None:
    output = run(PLAIN_TRAIN_NET, tiny_coco, TINY, tiny_text)
    assert output.endswith("trained\n")


def test_default_predictor_reports_no_missing_weights_of_the_text_encoder(tmp_path: Path) -> None:
    run(
        """
        import sys
        import numpy as np
        from detectron2.engine import DefaultPredictor
        from detectron2.utils.logger import setup_logger
        from hipie import model_zoo

        setup_logger(sys.argv[1])
        name = "nano/hipie_nano_picturebook.yaml"
        cfg = model_zoo.get_config(name, ["MODEL.DEVICE", "cpu"])
        cfg.MODEL.WEIGHTS = str(model_zoo.get_weights(name))
        outputs = DefaultPredictor(cfg)(np.full((96, 128, 3), 200, np.uint8))
        assert "panoptic_seg" in outputs
        """,
        tmp_path / "log.txt",
    )
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert any("Loading from" in line for line in lines)
    assert len(lines) <= 3, "\n".join(lines[:10])


def test_user_modules_are_imported_by_name_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "module_by_name.py").write_text("imported = True\n")
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "module_by_file.py"
    file.write_text("def add_config(cfg):\n    cfg['WIDTH'] = 7\n")
    cfg: dict[str, int] = {}
    import_modules(["module_by_name", "folder/module_by_file.py"], cfg)
    assert sys.modules["module_by_name"].imported
    assert cfg == {"WIDTH": 7}
    with pytest.raises(ValueError, match="no module module_of_nobody to import"):
        import_modules(["module_of_nobody"], cfg)
    with pytest.raises(ValueError, match=r"no file folder/absent\.py to import"):
        import_modules(["folder/absent.py"], cfg)
    (tmp_path / "module_with_error.py").write_text("import package_of_nobody\n")
    with pytest.raises(ModuleNotFoundError, match="package_of_nobody"):
        import_modules(["module_with_error"], cfg)
