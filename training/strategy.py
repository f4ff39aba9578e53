"""How training is spread over devices: `tf.distribute`, resolved from the recipe's word.

Proven on one CPU, on logical CPUs, on one GPU and on virtual GPUs of one; several workers as
processes of one machine. TPUs resolve through TensorFlow's own resolver, and have not been run on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from configs.schema import SettingError
from training.cluster import VARIABLE, addresses, read_task
from training.interruption import SIGNALS
from training.rendezvous import wait_for_peers


def resolve_strategy(name: str) -> tf.distribute.Strategy:
    """Resolves `auto | one_device | mirrored | multi_worker | tpu`.

    `auto` takes a TPU if TensorFlow is told of one (TPU_NAME), several workers if TF_CONFIG is
    set, all GPUs if there are several, one device otherwise.

    Raises:
        SettingError: If the devices asked for are not there.
    """
    if name == "auto":
        name = _automatic()
    return _BUILDERS[name]()


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy's replicas are TPU cores."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def has_accelerators() -> bool:
    """Whether anything but CPUs is there to compute on."""
    return any(d.device_type not in ("CPU", "TPU_SYSTEM") for d in tf.config.list_logical_devices())


def _automatic() -> str:
    if os.environ.get("TPU_NAME"):
        return "tpu"
    if os.environ.get(VARIABLE):
        return "multi_worker"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"


def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker() -> tf.distribute.Strategy:
    if not os.environ.get(VARIABLE):
        raise SettingError(
            "training.strategy", "multi_worker", f"the environment variable {VARIABLE} to be set"
        )
    task = read_task()
    if task is not None:
        wait_for_peers(*addresses(task))
    with _signals_end_the_process():
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Leaves Ctrl-C to the kernel while nothing is done yet, and Python cannot hear it.

    All peers were there a moment ago. Of one that goes now TensorFlow waits an hour for the return,
    and lets no Python run meanwhile. SIGTERM it takes for itself, and keeps: Python's handler is
    put back when the wait is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that Python did not set, and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise SettingError("training.strategy", "tpu", f"a reachable TPU ({error})") from error
    return tf.distribute.TPUStrategy(resolver)


_BUILDERS = {
    "one_device": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
    "tpu": _tpu,
}
