"""Every key of the configuration changes something that can be observed; see `tests/wiring.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from hipie import model_zoo
from hipie.config import add_hipie_config
from hipie.config.loading import keys
from hipie.data.datasets import register_all
from tests.wiring import WiredNode, registered_nodes, test_exists

TINY = str(Path(__file__).parent / "tiny.yaml")
NODES = registered_nodes()


def all_keys() -> CfgNode:
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def cases() -> list:
    cfg = all_keys()
    return [
        pytest.param(node, key, id=key)
        for node in NODES
        for key in node.keys(cfg)
        if key.removeprefix(f"{node.name}.") not in node.tested
    ]


@pytest.fixture(scope="module")
def small(tiny_text, tiny_book) -> CfgNode:
    """The smallest configuration; it is not changed."""
    options = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "PICTUREBOOK.ROOT", str(tiny_book)]
    yield model_zoo.get_config(TINY, options)
    register_all(all_keys())


@pytest.mark.parametrize(("node", "key"), cases())
def test_every_key_changes_something(node: WiredNode, key: str, small: CfgNode) -> None:
    assert node.has_effect(small, key), f"{key} changes nothing"


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_equal_configurations_are_observed_as_equal(node: WiredNode, small: CfgNode) -> None:
    assert node.is_repeatable(small)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_keys_of_other_tests_are_in_these(node: WiredNode) -> None:
    for key, test in node.tested.items():
        assert test_exists(test, key), f"{test} does not show the effect of {node.name}.{key}"


def test_every_key_of_the_package_and_its_projects_is_observed() -> None:
    cfg = all_keys()
    own = {*keys(cfg)} - {*keys(get_cfg())}
    assert {name.split(".")[1] for name in own if name.startswith("MODEL.")} >= {
        *("HIPIE", "REFERSAM", "GRSER", "FEWSHOT", "INTERACTIVE", "TRAINING_FREE"),
        "PROPOSAL_CLIP",
        "CLASSICAL",
    }
    assert own - {key for node in NODES for key in node.keys(cfg)} == set()
