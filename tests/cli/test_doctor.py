from __future__ import annotations

from hipie.cli import doctor


def test_says_what_runs_and_how_to_build_it_again(capsys):
    code = doctor.main([])
    printed = capsys.readouterr().out
    assert "deformable attention on cpu:" in printed
    assert "native CPU kernel" in printed
    assert "to build the operator again: " in printed
    assert code in (0, 1)


def test_a_missing_kernel_is_not_well(monkeypatch):
    from hipie.ops import explanation

    monkeypatch.setattr(explanation, "cpu_problem", "it was not built")
    lines, well = doctor.report()
    assert not well
    assert any("mend:" in line for line in lines)


def test_a_missing_detectron2_comes_with_its_command(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    lines, well = doctor.report()
    assert not well
    assert any("git+https://github.com/facebookresearch/detectron2" in line for line in lines)
