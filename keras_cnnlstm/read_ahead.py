"""Elements of batches that threads of Python prepare ahead of who asks for them.

`tf.data` has a parallel map and a prefetch of its own, but with a Python function in them an
iterator that is dropped before its end may never return: its destructor holds the interpreter's
lock and waits for a thread that waits for that lock (TensorFlow 2.21). These threads belong to
Python, and nobody waits for them but who asks for a batch.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from keras_cnnlstm.processor import num_cores

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Loads the elements of a batch and, while it is in use, those of the next ones.

    Args:
        load: makes the element at a place; called in several threads at once.
        places: from the number of a batch to the places in it; none after the last.
        ahead: batches to load beyond the one asked for.
        workers: threads; by default one for each core, eight at most.
    """

    def __init__(
        self,
        load: Callable[[int], T],
        places: Callable[[int], Iterable[int]],
        *,
        ahead: int = 2,
        workers: int | None = None,
    ):
        self._load, self._places, self._ahead = load, places, ahead
        self._pool = ThreadPoolExecutor(workers or min(8, num_cores()))
        self._due: dict[int, list[Future[T]]] = {}
        self._lock = threading.Lock()

    def batch(self, number: int) -> list[T]:
        """The elements of a batch; raises what `load` raised."""
        wanted = range(number, number + 1 + self._ahead)
        with self._lock:
            for other in self._due.keys() - set(wanted):  # of who has stopped asking
                for future in self._due.pop(other):
                    future.cancel()
            for k in wanted:
                if k not in self._due:
                    self._due[k] = [self._pool.submit(self._load, p) for p in self._places(k)]
            futures = self._due.pop(number)
        return [future.result() for future in futures]
