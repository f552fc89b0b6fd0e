"""Bad command lines and records: one line, status 2, nothing read or written."""

import pytest

import train
from deepzero_jax.applications import PROGRAMS
from tests.conftest import ROOT
from tests.faults.bad_values import cases
from tests.runs import call

RECORDS = {
    "Config": "quickstart",
    "DefenseConfig": "defense_digits",
    "SolverConfig": "sol_ks",
}


@pytest.mark.parametrize("schema", PROGRAMS, ids=lambda schema: schema.__name__)
def test_every_bad_value_of_every_field_is_one_line(schema, capsys, tell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = f"--config={ROOT / 'configs' / RECORDS[schema.__name__]}.py"
    tried, wrong = 0, []
    for path, text in cases(schema):
        status = call(train.main, record, f"--config.{path}={text}", "--workdir=run")
        output = capsys.readouterr()
        tried += 1
        name = path.split(".")[-1]
        good = status == 2 and output.out == "" and output.err.count("\n") == 1
        if not (good and output.err.startswith("train.py: error: ") and name in output.err):
            wrong.append((path, text, status, output.err))
    assert not wrong, wrong[:5]
    assert not list(tmp_path.iterdir())
    tell(f"{schema.__name__}: {tried} bad values, {len(wrong)} not refused in one line")
    assert tried > 100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import sys\nsys.exit(3)", "is broken: SystemExit: 3"),
        ("raise KeyboardInterrupt", "is broken: KeyboardInterrupt"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "is broken: Odd: x"),
        ("def get_config(a): pass", "is broken: TypeError"),
        ("get_config = 3", "is broken: TypeError"),
        ("def get_config(): return None", "must return a Config"),
        ("\x00", "is broken"),
        ("def get_config(): return get_config()", "is broken: RecursionError"),
    ],
)
def test_a_record_that_does_not_give_a_config_is_one_line(content, words, capsys, tmp_path):
    (tmp_path / "odd.py").write_text(content)
    assert call(train.main, f"--config={tmp_path / 'odd.py'}", f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["100", "0", "65536", "99999", "１２３４", "1e3", "-5", ""])
def test_odd_ports_are_one_line(text, capsys, tmp_path):
    coordinator = f"--coordinator=localhost:{text}"
    flags = [coordinator, "--num_processes=2", "--process_id=0", f"--workdir={tmp_path / 'run'}"]
    if text == "100":  # would be a port; one that somebody uses is refused as well
        import socket

        with socket.socket() as taken:
            taken.bind(("", 0))
            taken.listen()
            flags[0] = f"--coordinator=localhost:{taken.getsockname()[1]}"
            assert call(train.main, f"--config={ROOT / 'configs/quickstart.py'}", *flags) == 2
        assert "the port cannot be used" in capsys.readouterr().err
        return
    assert call(train.main, f"--config={ROOT / 'configs/quickstart.py'}", *flags) == 2
    error = capsys.readouterr().err
    assert "a port from 1 to 65535" in error
    assert error.count("\n") == 1
