"""The meeting of the processes of a run, before JAX connects them.

JAX ends a process with a C++ stack when another one never comes; here the missing ones are named.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import TypeVar

_GO = "go"
T = TypeVar("T")


def meet(host: str, port: int, count: int, index: int, patience: float) -> None:
    """Returns when all processes have called it.

    Process 0 listens on the port and frees it again; the others tell it who they are.

    Args:
      host: of process 0.
      port: likewise.
      count: of processes.
      index: of this one.
      patience: seconds to wait.

    Raises:
      ConnectionError: naming the processes that did not come, or two with one number, or a port
        that cannot be used.
    """
    if index == 0:
        _gather(host, port, count, patience)
    else:
        _report(host, port, count, index, patience)


def _gather(host: str, port: int, count: int, patience: float) -> None:
    until = time.monotonic() + patience
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen(count)
        except OSError as error:
            raise ConnectionError(
                f"--coordinator {host}:{port}: the port cannot be used ({error.strerror}); "
                "give another one to every process"
            ) from error
        there: dict[int, socket.socket] = {}
        problem = ""
        while len(there) < count - 1 and not problem:
            listener.settimeout(max(until - time.monotonic(), 0.01))
            try:
                peer = held.enter_context(listener.accept()[0])
                peer.settimeout(5.0)
                told = json.loads(peer.makefile().readline())
                problem = _checked(told, there, count)
                there.setdefault(int(told["index"]), peer)
            except TimeoutError:
                if time.monotonic() >= until:
                    missing = [str(i) for i in range(1, count) if i not in there]
                    problem = (
                        f"not all {count} processes came together at {host}:{port} within "
                        f"{patience:.0f} s: process {', '.join(missing)} is missing; start it"
                    )
            except (OSError, ValueError, KeyError, TypeError):
                continue  # somebody else's connection
        for peer in there.values():
            with contextlib.suppress(OSError):
                peer.sendall(f"{problem or _GO}\n".encode())
                peer.shutdown(socket.SHUT_WR)
        if problem:
            raise ConnectionError(problem)
        for peer in there.values():  # they hang up first, so that the port is free at once
            with contextlib.suppress(OSError):
                peer.recv(1)


def _checked(told: dict[str, int], there: dict[int, socket.socket], count: int) -> str:
    if told["count"] != count:
        return f"process {told['index']} says --num_processes {told['count']}, process 0 {count}"
    if told["index"] in there or not 0 < told["index"] < count:
        return f"two processes say --process_id {told['index']}; each needs its own"
    return ""


def _report(host: str, port: int, count: int, index: int, patience: float) -> None:
    def tell(peer: socket.socket) -> str:
        peer.sendall(json.dumps({"index": index, "count": count}).encode() + b"\n")
        peer.settimeout(patience + 10)
        answer = peer.makefile().readline().strip()
        if not answer:
            raise ConnectionError("it hung up")
        return answer

    answer = connect(host, port, patience, tell)
    if answer != _GO:
        raise ConnectionError(answer)


def connect(host: str, port: int, patience: float, use: Callable[[socket.socket], T]) -> T:
    """What a connection to process 0 gives; a refused one is tried again, as it may start later.

    Args:
      host: of process 0.
      port: likewise.
      patience: seconds to try.
      use: of the connection; it may raise OSError to have it tried again.

    Raises:
      ConnectionError: nothing answers there.
    """
    until = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as peer:
                return use(peer)
        except OSError as error:
            if time.monotonic() > until:
                raise ConnectionError(
                    f"the coordinator {host}:{port} does not answer ({error}); start process 0 "
                    "there, or mend --coordinator"
                ) from error
        time.sleep(0.5)
