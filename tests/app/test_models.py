"""Models of the page are loaded once, in the background."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest

from hipie.app.models import MAX_LOADED, ModelPool, ModelSpec, known_models
from hipie.errors import InputError


class Spec(ModelSpec):
    """A model whose load the test controls."""

    loads: ClassVar[list[str]] = []
    gate = threading.Event()
    error: Exception | None = None

    def load(self, device):
        Spec.loads.append(self.name)
        assert Spec.gate.wait(20)
        if Spec.error is not None:
            raise Spec.error
        return f"{self.name} on {device}"


@pytest.fixture(autouse=True)
def _fresh():
    Spec.loads, Spec.gate, Spec.error = [], threading.Event(), None


def pool(*names: str) -> ModelPool:
    return ModelPool([Spec(name, name) for name in names], "cpu")


def test_the_state_is_told_while_a_model_loads():
    models = pool("a", "b")
    assert models.status("a") == ("a is not loaded", True)
    load = models.start("a")
    assert models.status("a") == ("Loading a: 0 s", False)
    assert not models.is_loaded("a")
    Spec.gate.set()
    assert load.result(20) == "a on cpu"
    assert models.status("a") == ("a is ready", True)
    assert models.is_loaded("a") and not models.is_loaded("b")
    assert models.get("a") == "a on cpu" and Spec.loads == ["a"]


def test_a_load_that_failed_is_told_and_begun_again():
    models = pool("a")
    Spec.gate.set()
    Spec.error = InputError("weights.pth is cut short")
    with pytest.raises(InputError, match="cut short"):
        models.get("a")
    assert models.status("a") == ("a: weights.pth is cut short", True)
    Spec.error = None
    assert models.get("a") == "a on cpu" and Spec.loads == ["a", "a"]


def test_the_models_that_were_used_last_are_kept():
    names = [f"m{number}" for number in range(MAX_LOADED + 1)]
    models = pool(*names)
    Spec.gate.set()
    for name in [*names[:-1], names[0], names[-1]]:
        models.get(name)
    assert [name for name in names if models.is_loaded(name)] == [names[0], *names[2:]]


def test_unknown_models_are_named():
    with pytest.raises(InputError, match='no model "c"; choose one of a, b'):
        pool("a", "b").start("c")


def test_models_of_the_table_with_weights_are_offered():
    names = [model.name for model in known_models()]
    assert "hipie-nano-picturebook" in names and "sam-vit-b" not in names
