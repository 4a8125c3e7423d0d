"""Similarities of classes: pooled features, planted similarities, and the program on pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import text_image_similarity as program


def test_pooled_features_are_means_over_the_pixels_of_a_class() -> None:
    features = torch.randn(5, 4, 6)
    labels = torch.zeros(8, 12)
    labels[:4] = 1
    labels[4:, 6:] = 255
    pooled, found = program.pooled_features(features, labels, 3)
    assert found.tolist() == [True, True, False] and not pooled[2].any()
    torch.testing.assert_close(pooled[1], features[:, :2].mean((1, 2)))
    torch.testing.assert_close(pooled[0], features[:, 2:, :3].mean((1, 2)))


def test_planted_similarities_are_found() -> None:
    """Things are alike in both modalities in the same way, stuff in opposite ways."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(8, 16, generator=generator)
    image = text.clone()
    text_cosines, image_cosines = program.similarities(text), program.similarities(image)
    image_cosines[4:, 4:] *= -1
    kinds = ["thing"] * 4 + ["stuff"] * 4
    found = program.summary(text_cosines, image_cosines, kinds)
    assert found["thing"]["correlation"] == pytest.approx(1)
    assert found["stuff"]["correlation"] == pytest.approx(-1)
    assert found["stuff"]["image"] == pytest.approx(-found["stuff"]["text"])
    expected = [float(text_cosines[i, j]) for i in range(4) for j in range(i)]
    assert found["thing"]["text"] == pytest.approx(sum(expected) / 6, abs=1e-6)
    assert "stuff" not in program.summary(text_cosines, image_cosines, kinds[:6])


def test_program_draws_both_matrices(tiny_program, capsys) -> None:
    results = program.main(["--images", "3", *tiny_program])
    folder = Path(tiny_program[tiny_program.index("--output") + 1])
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "similarity.png").stat().st_size > 10_000
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(results["kinds"])
    for row in results["kinds"].values():
        assert row["classes"] >= 3 and -1 <= row["correlation"] <= 1
    with pytest.raises(ValueError, match="--level res9: the model reads res3"):
        program.main(["--level", "res9", *tiny_program])
