"""What comes next, made in a thread of its own while the consumer is at work.

`tf.data` reads ahead, too, but to take a finished batch from it is a call into TensorFlow that
wakes threads there: half a millisecond alone, several where cores are shared. Beside a step of a
few milliseconds that is a wait. What waits here is a Python object, taken in microseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], waiting: int) -> Iterator[T]:
    """Yields `items` in their order, up to `waiting` of them made before they are asked for.

    Begins when the first is asked for, and makes more whenever half of them are taken: to wake the
    thread costs the consumer its place on a busy core, so that it is done now and then. However the
    consumer leaves, no more are made than the one under way.

    Args:
        items: Made one after another, in one thread; none is None.
        waiting: Most that wait to be taken, >= 1.

    Raises:
        Exception: What making an item raised, when that item is asked for.
    """
    maker = ThreadPoolExecutor(1, "reading ahead")
    try:
        made = deque(maker.submit(next, items, None) for _ in range(waiting))
        while (item := made.popleft().result()) is not None:
            if len(made) <= waiting // 2:
                made.extend(maker.submit(next, items, None) for _ in range(waiting - len(made)))
            yield item
    finally:
        maker.shutdown(wait=False, cancel_futures=True)
