import re
import sys
import threading
import time

import pytest

from deepzero_jax.bars import bar, tell


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_short_work_says_nothing():
    lines = []
    with bar("work", lines.append, total=2, unit="parts") as shown:
        shown.advance(2)
    assert lines == []
    assert shown.done == 2


def test_a_log_is_told_line_by_line_how_far_it_is_and_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    lines = []
    with bar("scoring", lines.append, 8, "queries", patience=0.01, interval=0.02) as shown:
        wait_for(lambda: lines)
        assert lines[0].startswith("scoring: 0 of 8 queries, ")
        assert lines[0].endswith(" ms so far")
        shown.advance()
        time.sleep(0.1)
        shown.advance(3)
        wait_for(lambda: "of 8 queries (50 %), " in lines[-1])
        # Three a tenth of a second since the first, and four are left.
        assert re.search(r"%\), [12]?\d(\.\d+)? a second, .* to go$", lines[-1]), lines[-1]
        shown.advance(6)
    # What was asked beyond the total, to fill up a chunk, does not show.
    assert lines[-1].startswith("scoring: 8 queries done in ")
    assert not any(thread.name == "bar scoring" for thread in threading.enumerate())


def test_work_of_unknown_length_says_what_it_is_and_how_long_it_took():
    lines = []
    with bar("compiling", lines.append, patience=0.01, interval=0.02):
        wait_for(lambda: len(lines) >= 2)
    assert all(line.startswith("compiling: ") for line in lines)
    assert all(line.endswith(" so far") for line in lines[:-1])
    assert lines[-1].startswith("compiling: done in ")


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
        with bar("work", lines.append, patience=0.01, interval=99):
            wait_for(lambda: lines)
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
        time.sleep(1.0)
    output = capsys.readouterr()
    assert "scoring:  50%" in output.err
    assert "2/4" in output.err
    assert output.out.startswith("scoring: 2 queries done in ")
    assert lines == []
