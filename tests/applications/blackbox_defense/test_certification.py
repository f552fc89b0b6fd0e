import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from deepzero_jax.applications.blackbox_defense import (
    Certification,
    certified_accuracy,
    certify_counts,
    certify_images,
    check_radii,
    largest_radius,
    lower_bound,
    num_abstentions,
    plot_certified,
    samples_needed,
)
from deepzero_jax.applications.blackbox_defense.certification import count_answers

SIGMA, ALPHA = 0.25, 0.001


def linear_classifier(weights, offset):
    return lambda images: (images.reshape(len(images), -1) @ weights > offset).astype(int)


def test_a_linear_classifier_gets_its_known_radius(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=12).astype(np.float32)
    images = rng.uniform(size=(20, 2, 2, 3)).astype(np.float32)
    margins = images.reshape(20, -1) @ weights / np.linalg.norm(weights)
    offset = np.median(margins) * np.linalg.norm(weights)
    exact = np.abs(margins - np.median(margins))
    labels = (margins > np.median(margins)).astype(int)
    predict = linear_classifier(weights, offset)
    chosen = Certification(num_samples=20_000, alpha=ALPHA, radii=(0.0, 0.5))
    records = certify_images(predict, images, labels, chosen, tmp_path / "a.jsonl", 2)
    top = largest_radius(20_000, SIGMA, ALPHA)
    for record, radius in zip(records, exact, strict=True):
        if record["predicted"] is None:
            assert radius < 0.02
            continue
        assert record["radius"] <= radius
        assert record["radius"] >= min(0.9 * radius - 0.01, 0.9 * top)
    accuracies = [certified_accuracy(records, radius) for radius in (0.0, 0.1, 0.5)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == pytest.approx(1 - num_abstentions(records) / 20)
    for radii in ((0.0, 0.5), (0.0,)):
        plot_certified({"linear": records}, replace(chosen, radii=radii), tmp_path / "curve.png")
        assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(("probability", "num_samples"), [(0.7, 50), (0.95, 200), (0.995, 1000)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_fails_no_more_often_than_alpha(probability, num_samples, alpha):
    draws = np.random.default_rng(1).binomial(num_samples, probability, 10_000)
    bounds = {count: lower_bound(count, num_samples, alpha) for count in set(draws.tolist())}
    failures = np.mean([bounds[count] > probability for count in draws.tolist()])
    assert failures <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 10_000)


def test_the_bound_is_not_looser_than_it_must_be():
    # A bound one count higher would fail more often than alpha.
    from scipy.stats import binom

    for count in (60, 90, 99):
        bound = lower_bound(count, 100, 0.01)
        assert binom.sf(count - 1, 100, bound) == pytest.approx(0.01, rel=1e-6)
    assert lower_bound(0, 100, 0.01) == 0.0


def test_counts_below_a_half_abstain():
    assert certify_counts(np.array([9, 1]), np.array([50, 50]), SIGMA, ALPHA).label is None
    sure = certify_counts(np.array([1, 9]), np.array([0, 1000]), SIGMA, ALPHA)
    assert sure.label == 1
    assert sure.radius == pytest.approx(SIGMA * norm.ppf(ALPHA ** (1 / 1000)))
    # The class is chosen by other samples than those that prove it.
    assert certify_counts(np.array([9, 1]), np.array([0, 1000]), SIGMA, ALPHA).label is None


def test_radii_out_of_reach_are_refused_with_the_samples_that_would_do():
    with pytest.raises(
        ValueError, match=r"1,000 samples cannot certify radius 0.75 .* 5,11[34] could"
    ):
        check_radii((0.0, 0.75), 1000, SIGMA, ALPHA)
    needed = samples_needed(0.75, SIGMA, ALPHA)
    assert largest_radius(needed, SIGMA, ALPHA) >= 0.75
    assert largest_radius(needed - 1, SIGMA, ALPHA) < 0.75
    check_radii((0.0, 0.75), needed, SIGMA, ALPHA)
    for sigma in (0.01, 0.005):  # so many samples that nobody takes them, or no float holds them
        with pytest.raises(ValueError, match=r"only 0\.0[0-9]+; give a larger sigma"):
            check_radii((0.25,), 1000, sigma, ALPHA)


def test_certification_goes_on_where_it_was_stopped(tmp_path):
    rng = np.random.default_rng(0)
    weights, images = rng.normal(size=4), rng.uniform(size=(6, 2, 2, 1)).astype(np.float32)
    labels = np.zeros(6, int)
    calls = []

    def predict(batch):
        calls.append(len(batch))
        return linear_classifier(weights, 0.3)(batch)

    chosen = Certification(num_samples=500, radii=(0.0,), batch_size=300)
    whole = certify_images(predict, images, labels, chosen, tmp_path / "whole.jsonl", 2)
    assert calls[:3] == [100, 300, 200]
    text = (tmp_path / "whole.jsonl").read_text()
    (tmp_path / "part.jsonl").write_text(text[: len(text) // 2])
    calls.clear()
    part = certify_images(predict, images, labels, chosen, tmp_path / "part.jsonl", 2)
    assert part == whole
    assert (tmp_path / "part.jsonl").read_text() == text
    assert 0 < sum(calls) < 6 * 600
    assert json.loads(text.splitlines()[0])["num_samples"] == 500
    with pytest.raises(ValueError, match="certificates of other images"):
        certify_images(predict, images, labels + 1, chosen, tmp_path / "whole.jsonl", 2)
    for other in ({"sigma": 1.0}, {"num_samples": 600}, {"alpha": 0.01}):
        with pytest.raises(ValueError, match="made otherwise: " + next(iter(other))):
            certify_images(
                predict, images, labels, replace(chosen, **other), tmp_path / "whole.jsonl", 2
            )


def test_every_image_has_noise_of_its_own_and_the_right_size(tmp_path):
    seen = []

    def predict(batch):
        seen.append(batch)
        return np.zeros(len(batch), int)

    chosen = Certification(sigma=0.5, num_samples=2000, num_selection=2000, radii=(0.0,))
    certify_images(
        predict, np.zeros((2, 2, 2, 1), np.float32), np.zeros(2, int), chosen, tmp_path / "a", 1
    )
    assert len(seen) == 4
    for first in range(4):
        assert np.std(seen[first]) == pytest.approx(0.5, rel=0.03)
        for second in range(first):
            assert abs(np.corrcoef(seen[first].ravel(), seen[second].ravel())[0, 1]) < 0.05


def test_a_sample_without_an_answer_agrees_with_no_class():
    chosen = Certification(sigma=SIGMA, num_selection=10, num_samples=1000, radii=(0.0,))
    image = np.zeros((2, 2, 1), np.float32)
    half = lambda x: np.where(np.arange(len(x)) % 2 == 0, 0, -1)
    counts = count_answers(half, image, np.random.default_rng(0), 1000, chosen, 3)
    assert counts.tolist() == [500, 0, 0]
    assert certify_counts(counts, counts, SIGMA, ALPHA).label == 0
    assert certify_counts(counts, counts, SIGMA, ALPHA, 1000).label is None
