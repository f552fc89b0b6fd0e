"""What a finished run has learnt."""

from pathlib import Path
from typing import NamedTuple

from deepzero_jax.training.checkpoint import load_newest
from deepzero_jax.training.folder import Json, RunFolderError, read_json
from deepzero_jax.types import Params, PyTree


class Trained(NamedTuple):
    """A finished run, or a stage of one.

    Attributes:
      params: parameters.
      model_state: running statistics.
      summary: of the run.
    """

    params: Params
    model_state: PyTree
    summary: Json


def load_trained(folder: Path | str) -> Trained:
    """Reads the parameters of a finished run, those after its last step.

    Args:
      folder: of the run, as ``train.py`` names it at the end; of a run of several stages, the
        subfolder of one.

    Returns:
      Parameters and running statistics as NumPy arrays; where they were tuples or records, as
      lists and dictionaries.

    Raises:
      RunFolderError: nothing finished there, or a checkpoint that cannot be read.

    **Cost**: no query.

    Example:
      >>> load_trained("runs/nowhere")
      Traceback (most recent call last):
      deepzero_jax.training.folder.RunFolderError: runs/nowhere holds no finished run: it has no summary.json
    """  # noqa: E501 - the last line is an output
    folder = Path(folder)
    if not (folder / "summary.json").exists():
        raise RunFolderError(f"{folder} holds no finished run: it has no summary.json")
    summary = read_json(folder / "summary.json")
    state = load_newest(folder / "checkpoints")
    return Trained(state["params"], state.get("model_state") or {}, summary)
