"""What estimates through a black box give reason to doubt, said once by the logger."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox.told import tell_once
from deepzero_jax.coordinates import num_coordinates, num_valid
from deepzero_jax.estimators.contract import CoordinateEstimator, DirectionEstimator, Estimator
from deepzero_jax.estimators.host_use import slopes_dropped
from deepzero_jax.pages import see
from deepzero_jax.types import Params, PyTree

logger = logging.getLogger("deepzero_jax")


def tell_flat(box: object, name: str, central: bool) -> None:
    """Warns once of a box that its answers did not change with its inputs.

    Args:
      box: which.
      name: how it was asked.
      central: whether on both sides.
    """
    tell_once(box, "flat", _flat_in_words(name, central))


def _flat_in_words(name: str, central: bool) -> str:
    at_extremum = (
        ", unless the loss is as large on either side of the parameters, as at a minimum"
        if central
        else ""
    )
    return (
        f"all slopes of an estimate through a black box are exactly 0 ({name}): it does not "
        f"answer to so small a step, or not at all{at_extremum}; dz.probe_smoothing says from "
        f"which smoothing on it does{see('flat')}"
    )


class Doubts:
    """Looks at estimates as they are made; warns of each kind of fault once.

    Args:
      estimator: that makes them.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._probe, self._error, self._factor = None, 0.0, 1
        self._told: set[str] = set()
        self._dropped = slopes_dropped()
        self._looks = isinstance(estimator, CoordinateEstimator | DirectionEstimator)
        if not isinstance(estimator, CoordinateEstimator | DirectionEstimator):
            return
        self._name, self._probe = repr(estimator), estimator.probe
        self._ranked = bool(estimator.settings.get("ranked"))
        self._directions = estimator.settings.get("num_directions")
        self._central = bool(estimator.settings.get("central"))
        if self._probe is not None:
            self._error = self._probe.slope_error(self._central)

    def watch(self, value: jax.Array, grads: Params, coordinates: PyTree | None) -> None:
        """Has an estimate looked at when it is run; for losses that ask the host.

        Args:
          value: of the loss.
          grads: the estimate.
          coordinates: that it is of.
        """
        if not self._looks:
            return
        leaves = jax.tree.leaves(grads)
        squares = sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in leaves)
        count: jax.Array | int = num_coordinates(grads)
        if coordinates is not None:
            pairs = zip(leaves, jax.tree.leaves(coordinates), strict=True)
            count = jnp.asarray(sum(num_valid(leaf, indices) for leaf, indices in pairs))
        largest = [jnp.max(jnp.abs(leaf.astype(jnp.float32)), initial=0) for leaf in leaves]
        moves = sum((top != 0).astype(jnp.int32) for top in largest)  # also if it is NaN
        jax.debug.callback(self._look, value, squares, count, moves)

    def _look(
        self, value: np.ndarray, squares: np.ndarray, count: np.ndarray, moves: np.ndarray
    ) -> None:
        before, self._dropped = self._dropped, slopes_dropped()
        if int(count) == 0 or not math.isfinite(float(value)):
            return
        # Slopes that were dropped are 0, and counted.
        if not int(moves) and self._dropped == before:
            self._tell("flat", _flat_in_words(self._name, self._central))
        if self._probe is None:
            return
        if not self._probe.deterministic:
            self._tell(
                "random",
                "a black box gives another answer each time to the same question (noise "
                f"{self._probe.noise:.2g} of the loss): an estimate cannot be made again exactly",
            )
        if self._ranked:  # places have no error of their own
            return
        size = math.sqrt(float(squares) / int(count))
        if isinstance(self._directions, int):  # the mean of so many terms is smaller than a slope
            size *= math.sqrt(min(self._directions, int(count)))
        # What is seen is slope and error together: the slopes alone are below the error.
        if int(moves) and size < math.sqrt(2) * self._error:
            self._tell(
                "noise",
                f"the slopes of an estimate through a black box ({size:.2g}, root mean square) "
                f"are below the error that is expected of them, {self._error:.2g}, most of it "
                "noise: average over more samples, or take central differences",
            )

    def _tell(self, kind: str, words: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            logger.warning(words)
