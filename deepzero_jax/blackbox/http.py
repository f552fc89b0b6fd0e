"""A model behind an HTTP endpoint as a black box."""

import contextlib
import json
import queue
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from deepzero_jax.blackbox.engines import Calls, NoAnswerInTimeError
from deepzero_jax.blackbox.errors import BlackBoxError, RetryLaterError
from deepzero_jax.blackbox.options import check_seconds
from deepzero_jax.blackbox.protocols import PROTOCOLS, Protocol
from deepzero_jax.blackbox.threads import Threads
from deepzero_jax.counts import check_count
from deepzero_jax.types import PyTree

_BUSY = (429, 503)
# Of the address, the authority or the wording, and not of the samples that were sent.
_REFUSED = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 410, 415)


class Endpoint:
    """A host function that posts samples; see ``http_endpoint``. It can be sent to processes.

    Attributes:
      thread_safe: calls on their way share nothing.
    """

    thread_safe = True

    def __init__(
        self,
        url: str,
        protocol: Protocol,
        output: str | None,
        timeout: float,
        headers: Mapping[str, str] | None,
        max_bytes: int,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {sorted(PROTOCOLS)}, got {protocol!r}")
        _check_url(url)
        check_seconds("timeout", timeout, positive=True)
        max_bytes = check_count("max_bytes", max_bytes)
        self._made_of = (url, protocol, output, timeout, headers, max_bytes)
        self._url, self._output, self._timeout = url, output, timeout
        self._wording, self._max_bytes, self._headers = PROTOCOLS[protocol], max_bytes, headers
        # One for each call that is on its way: to give one up is to close its connections.
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle.put(self._connect())
        # One that is left is closed without a warning of Python's.
        weakref.finalize(self, _close, self._idle)

    def __reduce__(self) -> tuple[PyTree, ...]:
        return Endpoint, self._made_of

    def _connect(self) -> PyTree:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(
                'http_endpoint needs httpx: pip install "deepzero-jax[http]"'
            ) from error
        return httpx.Client(timeout=self._timeout, headers=self._headers)

    def close(self) -> None:
        """Closes the connections; the next call opens others."""
        _close(self._idle)

    def __call__(self, *inputs: PyTree) -> np.ndarray:
        """The answers to samples [n, …]: one array, several, or one dictionary by name."""
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            named = {name: np.asarray(array) for name, array in inputs[0].items()}
        elif len(inputs) == 1:
            named = {"": np.asarray(inputs[0])}
        else:
            named = {f"input{i}": np.asarray(array) for i, array in enumerate(inputs)}
        for name, array in named.items():
            _check_finite(name, array)
        content = self._post(self._wording.request(named))
        try:
            return self._wording.answer(content, self._output)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{self._url} answered otherwise than agreed: {error!r}") from error

    def _post(self, body: dict[str, Any]) -> PyTree:
        # In a thread of its own: httpx has a limit for each byte, and none for the whole.
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._connect()
        exchange, once = lambda: self._exchange(client, body), Calls(iter([(0, ())]))
        threads = Threads(1, thread_safe=True)
        with contextlib.closing(threads.run(exchange, once, self._timeout)) as outcomes:
            outcome = next(outcomes)[1]
        # Whichever of the two limits is looked at first.
        if isinstance(outcome, NoAnswerInTimeError) or _is_timeout(outcome):
            client.close()  # its thread ends with the next byte, or at httpx's own limit
            raise NoAnswerInTimeError(
                f"no whole answer from {self._url} within {self._timeout:g} s"
            )
        self._idle.put(client)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _exchange(self, client: Any, body: dict[str, Any]) -> PyTree:
        with client.stream("POST", self._url, json=body) as answer:
            read = bytearray()
            for part in answer.iter_bytes():
                read += part
                if len(read) > self._max_bytes:
                    raise ValueError(
                        f"the answer of {self._url} is longer than max_bytes={self._max_bytes:,}"
                    )
        text = read.decode(answer.encoding or "utf-8", "replace")
        if answer.status_code in _BUSY:
            raise RetryLaterError(
                f"{self._url} answered {answer.status_code}: {_short(text)}",
                answer.headers.get("Retry-After"),
            )
        if answer.status_code != 200:
            kind = BlackBoxError if answer.status_code in _REFUSED else ValueError
            raise kind(f"{self._url} answered {answer.status_code}: {_short(text)}")
        try:
            return json.loads(text.removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self._url} answered no JSON: {_short(text)}") from error


def _close(clients: "queue.SimpleQueue[Any]") -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            clients.get_nowait().close()


def _check_url(url: str) -> None:
    """Raises ValueError unless a URL says how and where."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'url must begin with "http://HOST" or "https://HOST", got {url!r}')


def _check_finite(name: str, array: np.ndarray) -> None:
    """Raises ValueError for numbers that JSON has no word for: other samples can be asked."""
    if array.dtype.kind not in "biu" and not np.isfinite(array).all():
        which = f"the input {name!r}" if name else "the input"
        raise ValueError(f"{which} holds NaN or an infinity, which JSON cannot say")


def _is_timeout(outcome: object) -> bool:
    import httpx

    return isinstance(outcome, httpx.TimeoutException)


def _short(text: str) -> str:
    return " ".join(text.split())[:200] or "nothing"


def http_endpoint(
    url: str,
    protocol: Protocol = "plain",
    output: str | None = None,
    timeout: float = 30.0,
    headers: Mapping[str, str] | None = None,
    max_bytes: int = 64 * 2**20,
) -> Callable[..., np.ndarray]:
    """A host function for ``black_box`` that posts samples as JSON.

    Args:
      url: of the endpoint.
      protocol: ``"plain"``: ``{"inputs": lists}`` and ``{"outputs": lists}``.
        ``"kserve_v2"``: the Open Inference Protocol, of a ``…/v2/models/NAME/infer``.
        ``"instances"``: TensorFlow Serving's, of a ``…:predict``.
      output: the name of the output that answers, where there are several.
      timeout: seconds from the first byte of the request to the last of the answer.
      headers: sent along, such as an authorisation.
      max_bytes: of an answer.

    Returns:
      ``(*inputs) -> answers``: one array, several (named input0, input1, …), or one
      dictionary by name. Where the endpoint says 429 or 503, a box waits with all its calls for
      as long as its Retry-After says, and asks again. A refusal that is of the address or the
      authority (401, 403, 404, a redirection) raises ``BlackBoxError`` at once.

    Raises:
      ImportError: httpx is not installed (the ``http`` extra).
      ValueError: an unknown protocol, or an option out of range; no ``http://`` in ``url``.
    """
    return Endpoint(url, protocol, output, timeout, headers, max_bytes)
