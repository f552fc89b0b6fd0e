"""What samples of a smoothed classifier prove: randomized smoothing (Cohen et al. 2019)."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, log_ndtr, ndtri

_MANY = 10**9  # samples that nobody takes


class Certificate(NamedTuple):
    """What is certified at one image.

    Attributes:
      label: class of the smoothed classifier, None where it abstains.
      radius: in L2 within which that class is certain, in units of the pixels; 0 where it
        abstains.
      num_agreeing: answers, of ``num_samples``, that gave the class.
      num_samples: n.
    """

    label: int | None
    radius: float
    num_agreeing: int
    num_samples: int


def lower_bound(count: int, num_samples: int, alpha: float) -> float:
    """One-sided Clopper–Pearson bound: below the true probability but for a chance of alpha.

    Args:
      count: successes k.
      num_samples: trials n.
      alpha: chance that the bound is above the probability.
    """
    if count == 0:
        return 0.0
    return float(betaincinv(count, num_samples - count + 1, alpha))


def certify_counts(
    selection: np.ndarray,
    estimation: np.ndarray,
    sigma: float,
    alpha: float,
    num_samples: int | None = None,
) -> Certificate:
    """The certificate that two sets of answers give.

    Args:
      selection: int [classes], answers among the samples that choose the class.
      estimation: int [classes], answers among fresh samples.
      sigma: standard deviation of the noise, in units of the pixels.
      alpha: chance that the certificate is wrong.
      num_samples: fresh samples, those without an answer included; None: as many as answers.

    Source: Cohen et al. 2019 (arXiv 1902.02918), algorithm CERTIFY.
    """
    label = int(np.argmax(selection))
    count = int(estimation[label])
    num_samples = int(np.sum(estimation)) if num_samples is None else num_samples
    probability = lower_bound(count, num_samples, alpha)
    if probability < 0.5:
        return Certificate(None, 0.0, count, num_samples)
    return Certificate(label, sigma * float(ndtri(probability)), count, num_samples)


def largest_radius(num_samples: int, sigma: float, alpha: float) -> float:
    """The radius that n samples certify when all of them agree."""
    return max(0.0, sigma * float(ndtri(lower_bound(num_samples, num_samples, alpha))))


def samples_needed(radius: float, sigma: float, alpha: float) -> float:
    """The least n whose agreement certifies a radius; infinite beyond every float."""
    # All n agree: the bound is alpha^(1/n).
    loss = -float(log_ndtr(radius / sigma))
    needed = -math.log(alpha) / loss if loss else math.inf
    return math.ceil(needed) if math.isfinite(needed) else math.inf


def check_radii(radii: tuple[float, ...], num_samples: int, sigma: float, alpha: float) -> None:
    """Raises ValueError for a radius that the samples cannot certify, and says how many could."""
    for radius in radii:
        if radius < 0:
            raise ValueError(f"a radius must not be negative, got {radius:g}")
        if radius > largest_radius(num_samples, sigma, alpha):
            needed = samples_needed(radius, sigma, alpha)
            remedy = f"{needed:,} could" if needed < _MANY else "give a larger sigma or less radius"
            raise ValueError(
                f"{num_samples:,} samples cannot certify radius {radius:g} at sigma {sigma:g} and "
                f"alpha {alpha:g}, only {largest_radius(num_samples, sigma, alpha):.3f}; "
                f"{remedy}"
            )
