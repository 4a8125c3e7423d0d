"""Names and expressions as the text encoder reads them."""

from __future__ import annotations

import pytest

from hipie.modeling.text_encoder.normalization import clean_expression
from hipie.vocabularies.normalization import clean_class_name


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("person", "person"),
        ("sky-other-merged", "sky-other-merged"),
        ("traffic_light", "traffic light"),
        ("bow_(decorative) ribbon", "bow ribbon"),
        ("a (b) c (d) e", "a e"),
        ("a    b", "a  b"),
        ("door, bars", "door, bars"),
        ("open ( only", "open ( only"),
        (") wrong (", ") wrong ("),
        ("Teddy Bear", "Teddy Bear"),
    ],
)
def test_class_name(name: str, clean: str) -> None:
    assert clean_class_name(name) == clean


@pytest.mark.parametrize(
    ("expression", "clean"),
    [
        ("The man's RED-coat, left!", "the mans red coat left"),
        ("dog/cat (small) #2: *this*; that?", "dog cat small 2 this that"),
        ('  "quoted"   words. ', "quoted words"),
    ],
)
def test_expression(expression: str, clean: str) -> None:
    assert clean_expression(expression) == clean
