"""Runs a part of a tf.data service, so that `data.service` can prepare batches on this machine.

Without `--join` it is a dispatcher with one worker; with it, a further worker of that dispatcher.
It must see the image files under the paths that the trainer names, and run the same TensorFlow.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from configs.schema import SettingError, require
from scripts.arguments import new_parser, parse
from scripts.command import start_tensorflow


def main(argv: Sequence[str]) -> None:
    """Body of `sterling data-service`; returns when a signal ends it."""
    parser = new_parser("data-service", "[--port N] [--join grpc://HOST:PORT]", __doc__ or "")
    parser.add_argument(
        "--port", type=int, default=0, help="Port of the dispatcher; 0 takes a free one."
    )
    parser.add_argument(
        "--join", type=str, default=None, help="Dispatcher of which this is a further worker."
    )
    parser.add_argument(
        "--host", type=str, default="localhost", help="Name by which trainers reach this machine."
    )
    arguments = parse(parser, argv)
    join: str | None = arguments.join
    if join is not None and not join.startswith("grpc://"):
        raise SettingError("--join", join, "grpc://HOST:PORT of a dispatcher")
    require(
        0 <= arguments.port < 65536,
        "--port",
        arguments.port,
        "a port (1 to 65535), or 0: a free one",
    )
    start_tensorflow(debug=arguments.debug)
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = None
    if join is None:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=arguments.port))
        port = dispatcher.target.rsplit(":", 1)[1]
        join = f"grpc://{arguments.host}:{port}"
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=join.removeprefix("grpc://"),
            worker_address=f"{arguments.host}:%port%",
        )
    )
    print(f"Preparing batches for --data.service={join}", flush=True)
    signal.pause()  # SIGTERM and Ctrl-C raise `Stopped` here
    del worker, dispatcher
