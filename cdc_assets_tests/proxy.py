"""A TCP proxy that can freeze: its connections stay open, and nothing passes any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class FreezingProxy:
    """Passes connections on to a port of 127.0.0.1 until it is frozen.

    Attributes:
        port: Where it listens.
        new_pass: Whether connections that are made while it is frozen pass.
    """

    def __init__(self, port: int, *, new_pass: bool) -> None:
        self._target, self.new_pass = port, new_pass
        self._frozen, self._closed = Event(), Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Let nothing pass any more."""
        self._frozen.set()

    def close(self) -> None:
        """Cut all connections."""
        self._closed.set()
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                late = self._frozen.is_set()
                for source, target in ((near, far), (far, near)):
                    Thread(target=self._pass, args=(source, target, late), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, late: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._frozen.is_set() and not (late and self.new_pass):
                    self._closed.wait()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def frozen_later(dsn: str, *, new_pass: bool) -> Iterator[tuple[FreezingProxy, str]]:
    """Give a proxy before a server, and the connection string that leads through it."""
    proxy = FreezingProxy(int(conninfo_to_dict(dsn)["port"] or 0), new_pass=new_pass)
    try:
        yield proxy, make_conninfo(dsn, port=proxy.port)
    finally:
        proxy.close()
