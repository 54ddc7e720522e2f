"""A second machine's network, as far as the kernel goes: a namespace behind a pair of veth.

Sockets are made inside the namespace by a thread that goes there; afterwards they are used from
anywhere. Needs root and iproute2.
"""

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()

# How the path is lost; neither end is told anything by its kernel.
LOSSES = ("link down", "every packet lost")


class Elsewhere:
    """The namespace. `here`: this machine's address as it is seen from there."""

    def __init__(self, name: str, near: str, far: str, here: str) -> None:
        self._name, self._near, self._far = name, near, far
        self.here = here
        self._inside = ThreadPoolExecutor(1, initializer=_enter, initargs=(name,))

    def connect(self, port: int, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection from there to a port here, made at once; it does not block afterwards."""
        return self._inside.submit(self._connect, port, receive_buffer).result()

    def _connect(self, port: int, receive_buffer: int | None) -> socket.socket:
        made = socket.socket()
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(5)
        made.connect((self.here, port))
        made.setblocking(False)
        return made

    def lose(self, how: str) -> None:
        """From now on nothing arrives, in either direction."""
        if how == "link down":
            _run("ip", "-n", self._name, "link", "set", self._far, "down")
            return
        # A queue with room for one byte drops every packet, in any kernel; netem is not in all.
        _run(
            "tc", "-n", self._name, "qdisc", "add", "dev", self._far, "root", "bfifo", "limit", "1"
        )
        _run("tc", "qdisc", "add", "dev", self._near, "root", "bfifo", "limit", "1")

    def close(self) -> None:
        self._inside.shutdown()
        _run("ip", "link", "del", self._near)
        _run("ip", "netns", "del", self._name)


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Make a namespace of its own, with names that no other test run has."""
    number = next(_numbers)
    name = f"ts-{os.getpid()}-{number}"
    near, far = f"tsn{os.getpid() % 100000}-{number}", f"tsf{os.getpid() % 100000}-{number}"
    network = f"10.{200 + number % 50}.{os.getpid() // 250 % 250}.{os.getpid() % 63 * 4}"
    prefix, _, last = network.rpartition(".")
    here, there = f"{prefix}.{int(last) + 1}", f"{prefix}.{int(last) + 2}"
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
    _run("ip", "addr", "add", f"{here}/30", "dev", near)
    _run("ip", "link", "set", near, "up")
    _run("ip", "-n", name, "addr", "add", f"{there}/30", "dev", far)
    _run("ip", "-n", name, "link", "set", far, "up")
    made = Elsewhere(name, near, far, here)
    try:
        yield made
    finally:
        made.close()


def _enter(name: str) -> None:
    """Take this thread into the namespace, for as long as it lives (setns(2))."""
    with Path(f"/run/netns/{name}").open() as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
