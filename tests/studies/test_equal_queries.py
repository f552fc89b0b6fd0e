"""The study of equal queries: every method asks what it says, and learns."""

import jax
import numpy as np
import pytest

from studies import equal_queries, searchers
from studies.host_searchers import AskTell
from studies.problems import problem
from tests.marks import few

OURS = {name for name, method in searchers.METHODS.items() if method.package is None}
SETTINGS = {"coordinates": 15, "directions": 16, "population": 16, "std": 0.05, "smoothing": 0.05}


@pytest.mark.parametrize("method", few(["cge_few", "rge", *sorted(OURS - {"cge_few", "rge"})], 2))
def test_a_method_asks_its_budget_and_learns(method):
    rule = {"optimizer": "adam", "learning_rate": 0.02}
    own = {k: v for k, v in SETTINGS.items() if k in searchers.METHODS[method].settings}
    found = equal_queries.search("digits_mlp", method, {**rule, **own}, 4000, 0)
    assert found["asked"] == pytest.approx(4000, rel=0.16)  # whole steps; dense: six
    assert found["queries"][-1] == found["asked"]
    chance = 15 if method == "cge_dense" else 40
    assert found["test"] > chance


def random_search(start, seed, settings):
    """The best of points around the best so far."""
    size = (settings["population"], len(start))
    rng, kept = np.random.default_rng(seed), {"best": start, "loss": np.inf}

    def ask():
        kept["points"] = kept["best"] + settings["std"] * rng.normal(size=size)
        return kept["points"]

    def tell(losses):
        assert losses.shape == size[:1]
        if losses.min() < kept["loss"]:
            kept.update(best=kept["points"][losses.argmin()], loss=losses.min())

    return AskTell(ask, tell, lambda: kept["best"])


def test_a_peer_in_python_is_asked_and_told_what_it_asked(monkeypatch):
    settings = {"population": 10, "std": 0.05}
    make = searchers._asked_by_host(random_search)
    monkeypatch.setitem(searchers.METHODS, "random_search", searchers.Method(make, {}))
    first, again = (
        equal_queries.search("digits_mlp", "random_search", settings, 1000, 3) for _ in "ab"
    )
    assert first == again
    assert first["asked"] == 1000
    other = equal_queries.search("digits_mlp", "random_search", settings, 1000, 4)
    assert other["validation"] != first["validation"]
    # What it was told of the points that it asked led it down.
    assert other["validation"][-1] > other["validation"][0]


def test_a_query_is_one_batch_that_the_key_draws():
    on = problem("digits_mlp")
    params = on.init(jax.random.key(0))
    losses = [float(on.loss(params, jax.random.key(seed))) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 610


def test_settings_are_drawn_alike_for_every_problem():
    given = ("_at_es", "_unranked")  # with the settings of another
    for method in sorted(name for name in searchers.METHODS if not name.endswith(given)):
        drawn = [equal_queries.drawn_settings(method, trial) for trial in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]


def test_settings_drawn_twice_are_tried_once(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_queries, "TRIALS", 3)
    found = equal_queries.compare("digits_mlp", "rge_at_es", 200, (0,), tmp_path)
    assert [trial["settings"] for trial in found["trials"]] == [found["settings"]]
    assert found["settings"]["smoothing"] == 0.136


def test_a_comparison_that_is_interrupted_goes_on_with_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_queries, "TRIALS", 3)
    searched = []

    def search(*asked_for):
        if len(searched) == 2:
            monkeypatch.setattr(equal_queries, "search", again)
            raise KeyboardInterrupt
        return again(*asked_for)

    def again(name, method, settings, budget, seed):
        searched.append(seed)
        return {"validation": [len(searched) / 10], "test": seed / 10}

    monkeypatch.setattr(equal_queries, "search", search)
    with pytest.raises(KeyboardInterrupt):
        equal_queries.compare("digits_mlp", "open_es", 200, (0, 1), tmp_path)
    found = equal_queries.compare("digits_mlp", "open_es", 200, (0, 1), tmp_path)
    assert [trial["validation"] for trial in found["trials"]] == [0.1, 0.2, 0.3]
    assert len(searched) == 5 and searched[-2:] == [0, 1]
    assert found["settings"] == found["trials"][-1]["settings"]
    # Another budget is another question.
    equal_queries.compare("digits_mlp", "open_es", 300, (0, 1), tmp_path)
    assert len(searched) == 10


@pytest.mark.parametrize("given", [{"problems": ("digts",)}, {"methods": ("sness",)}])
def test_what_is_unknown_is_named(given):
    with pytest.raises(ValueError, match=r"unknown .*known: "):
        next(equal_queries.measurements(**given))
