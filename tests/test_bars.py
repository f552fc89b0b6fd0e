import sys
import threading
import time

import pytest

from deepzero_jax.bars import bar, tell


def test_short_work_says_nothing():
    lines = []
    with bar("work", lines.append, total=2, unit="parts") as shown:
        shown.advance(2)
    assert lines == []
    assert shown.done == 2


def test_a_log_is_told_line_by_line_how_far_it_is_and_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    lines = []
    with bar("scoring", lines.append, 8, "queries", patience=0.05, interval=0.1) as shown:
        for _ in range(4):
            time.sleep(0.1)
            shown.advance()
        time.sleep(0.05)
        assert 3 <= len(lines) <= 6
        assert lines[0].startswith("scoring: 0 of 8 queries, ")
        assert lines[0].endswith(" ms so far")
        assert "scoring: 2 of 8 queries (25 %), " in lines[2]
        assert lines[2].endswith("ms to go") or lines[2].endswith(" s to go")
        shown.advance(6)
    # What was asked beyond the total, to fill up a chunk, does not show.
    assert lines[-1].startswith("scoring: 8 queries done in ")
    assert threading.active_count() == len(threading.enumerate())
    assert not any(thread.name == "bar scoring" for thread in threading.enumerate())


def test_work_of_unknown_length_says_what_it_is_and_how_long_it_took():
    lines = []
    with bar("compiling", lines.append, patience=0.01, interval=0.05):
        time.sleep(0.2)
    assert lines[0].startswith("compiling: ")
    assert lines[0].endswith("so far")
    assert lines[-1].startswith("compiling: done in 2")


def test_what_works_inside_tells_the_innermost_bar_or_nobody():
    tell(3)
    with bar("outer", print) as outer:
        tell(1, 5, "steps")
        with bar("inner", print) as inner:
            tell(2)
        tell(1)
    assert (outer.done, outer.total, outer.unit) == (2, 5, "steps")
    assert inner.done == 2


def test_a_failure_passes_and_says_nothing_is_done():
    lines = []

    def fail():
        with bar("work", lines.append, patience=0.01, interval=9):
            time.sleep(0.1)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert len(lines) == 1
    with bar("after", print) as after:
        tell()
    assert after.done == 1


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = []
    with bar("scoring", lines.append, 4, "queries", patience=0.01) as shown:
        shown.advance(2)
        time.sleep(0.1)
    output = capsys.readouterr()
    assert "scoring:  50%" in output.err
    assert "2/4" in output.err
    assert output.out.startswith("scoring: 2 queries done in ")
    assert lines == []
