"""A model behind an HTTP endpoint as a black box."""

import numpy as np

from deepzero_jax.blackbox.box import HostFunction


def http_endpoint(
    url: str, timeout: float = 30.0, headers: dict[str, str] | None = None
) -> HostFunction:
    """A host function for ``black_box`` that posts samples as JSON.

    The request is ``{"inputs": nested lists}``, the answer ``{"outputs": nested lists}``, one
    for each sample.

    Args:
      url: of the endpoint.
      timeout: seconds for connecting and for the answer.
      headers: sent along, such as an authorisation.

    Raises:
      ImportError: httpx is not installed (the ``http`` extra).
    """
    try:
        import httpx
    except ImportError as error:
        raise ImportError('http_endpoint needs httpx: pip install "deepzero-jax[http]"') from error
    client = httpx.Client(timeout=timeout, headers=headers)

    def ask(samples: np.ndarray) -> np.ndarray:
        answer = client.post(url, json={"inputs": samples.tolist()})
        answer.raise_for_status()
        content = answer.json()
        if not isinstance(content, dict) or "outputs" not in content:
            raise ValueError(f'{url} must answer {{"outputs": …}}, got {str(content)[:80]}')
        return np.asarray(content["outputs"], samples.dtype)

    return ask
