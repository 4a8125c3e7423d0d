"""Work of the page: progress, errors, and how it is cancelled."""

from __future__ import annotations

import threading

from hipie.app.work import Worker
from hipie.errors import InputError


def test_updates_say_the_step_and_end_with_the_result(monkeypatch):
    monkeypatch.setattr("hipie.app.work.INTERVAL", 0.05)
    gate, worker = threading.Event(), Worker()

    def work(progress):
        progress.step("Loading")
        assert gate.wait(20)
        return "done", 7

    updates = worker.run(work)
    first = next(update for update in updates if update.message.startswith("Loading"))
    assert (first.message, first.result) == ("Loading (0 s)", None)
    gate.set()
    last = list(updates)[-1]
    assert (last.message, last.result, last.is_error) == ("done", 7, False)
    worker.close()


def test_errors_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    worker = Worker()

    def fail(progress):
        raise InputError("the image is cut short")

    def bug(progress):
        raise ZeroDivisionError

    (update,) = worker.run(fail)
    assert (update.message, update.is_error) == ("the image is cut short", True)
    (update,) = worker.run(bug)
    assert "this is a bug of the program (ZeroDivisionError)" in update.message
    worker.close()


def test_cancelled_work_ends_at_its_next_step_and_waiting_work_never_begins(monkeypatch):
    monkeypatch.setattr("hipie.app.work.INTERVAL", 0.05)
    begun, gate, ended, steps = threading.Event(), threading.Event(), threading.Event(), []
    worker = Worker()

    def long(progress):
        try:
            for number in range(3):
                progress.step(f"step {number}")
                steps.append(number)
                begun.set()
                assert gate.wait(20)
            return "done", 1
        finally:
            ended.set()

    def never(progress):
        steps.append("never")
        return "done", 2

    running, waiting = worker.run(long), worker.run(never)
    next(running)
    assert begun.wait(20)
    assert next(waiting).message.startswith("Waiting for other work")
    running.close()
    waiting.close()
    gate.set()
    assert ended.wait(20)
    assert [update.result for update in worker.run(lambda progress: ("later", 3))][-1] == 3
    assert steps == [0]
    worker.close()


def test_work_is_cancelled_by_its_owner_and_says_so_last(monkeypatch):
    monkeypatch.setattr("hipie.app.work.INTERVAL", 0.05)
    gate, worker, steps = threading.Event(), Worker(), []

    def long(progress):
        progress.step("step 0")
        assert gate.wait(20)
        progress.step("step 1")
        steps.append(1)
        return "done", 1

    running, waiting = worker.run(long, "a"), worker.run(lambda progress: ("done", 2), "b")
    next(running)
    next(waiting)
    assert not worker.cancel("c")
    assert worker.cancel("a")
    assert [update.message for update in running][-1] == "Cancelled"
    gate.set()
    assert [update.result for update in waiting][-1] == 2
    assert steps == [] and not worker.cancel("a") and not worker.cancel("b")
    worker.close()
