"""`hipie doctor`."""

from __future__ import annotations

from hipie.cli import doctor


def test_report_has_the_kernel_and_the_build_command(capsys):
    code = doctor.main([])
    printed = capsys.readouterr().out
    assert "deformable attention on cpu:" in printed
    assert "native CPU kernel" in printed
    assert "to build the operator again: " in printed
    assert code in (0, 1)


def test_missing_kernel_is_reported(monkeypatch):
    from hipie.ops import explanation

    monkeypatch.setattr(explanation, "cpu_problem", "it was not built")
    lines, complete = doctor.report()
    assert not complete
    assert any("mend:" in line for line in lines)


def test_missing_detectron2_is_reported_with_its_command(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    lines, complete = doctor.report()
    assert not complete
    assert any("git+https://github.com/facebookresearch/detectron2" in line for line in lines)


def test_report_lists_what_a_patch_serves(monkeypatch):
    import hipie.ops
    from hipie.ops.installed_clients import Client

    clients = [Client("shelf", "1.0", {"shelf.one:f": "function"}, ["shelf.two:g"])]
    monkeypatch.setattr(doctor, "installed_clients", lambda: clients)
    with hipie.ops.patch("shelf_that_is_not_installed"):
        lines, _ = doctor.report()
    assert "  shelf 1.0: one; left alone, of an unknown form: shelf.two:g" in lines
    assert any("hipie.ops.patch of shelf_that_is_not_installed" in line for line in lines)
