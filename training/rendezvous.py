"""Waits in Python until every worker of TF_CONFIG is there, so that signals are obeyed meanwhile.

TensorFlow waits for absent peers an hour, within one call in which no Python runs; SIGTERM it keeps
for itself. So peers are waited for here first. Until TensorFlow's own server takes it over, every
worker listens on its port itself, which is what the others look for: nobody has to be first. A
worker that has seen all others goes on to TensorFlow, whose server then answers on the same port
those that are still looking.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Mapping

from configs.schema import SettingError
from training.cluster import VARIABLE

_EVERY_S = 0.2
_CONNECT_S = 2.0
# A wait that lasts names who is missing so often.
_REMIND_S = 60.0


def wait_for_peers(mine: str, peers: Mapping[str, str]) -> None:
    """Returns when every peer answers; a signal's handler runs as ever meanwhile, and may raise.

    Nothing is sent, and whoever connects is let go at once.

    Args:
        mine: This worker's own address, `host:port`.
        peers: Name -> address of each other worker.

    Raises:
        SettingError: If an address has no port, or this worker's is taken.
    """
    places = {name: _split(address) for name, address in peers.items()}
    with _listening(mine) as listener:
        told: tuple[str, ...] = ()
        remind = 0.0
        while absent := tuple(name for name, place in places.items() if not _answers(place)):
            if absent != told or time.monotonic() >= remind:
                named = ", ".join(f"{name} at {peers[name]}" for name in absent)
                logging.info("Waiting for %s.", named)
                told, remind = absent, time.monotonic() + _REMIND_S
            _let_go(listener)
            time.sleep(_EVERY_S)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise SettingError(VARIABLE, address, "addresses such as a.example:2222, with a port each")
    return host.strip("[]"), int(port)


def _listening(mine: str) -> socket.socket:
    _, port = _split(mine)
    try:
        # On every interface, as TensorFlow's server: the name may be known to others alone.
        listener = _server(port)
    except OSError as error:
        raise SettingError(
            VARIABLE, mine, f"a port of this worker's own that is free ({error.strerror})"
        ) from error
    listener.setblocking(False)
    return listener


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            # Built in, and switched off.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port))


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=_CONNECT_S).close()
    except OSError:  # not there yet, nor perhaps its name
        return False
    return True


def _let_go(listener: socket.socket) -> None:
    """Empties the queue of those that looked, so that it never fills."""
    try:
        while True:
            listener.accept()[0].close()
    except BlockingIOError:
        return
