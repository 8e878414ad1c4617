"""What a sequence of digits means: its classes, its target, and how to draw digits for one.

NumPy only. The methods that work on batches of digits also run inside a TensorFlow graph: pass
`xp=tf.experimental.numpy`. One implementation serves the data pipeline and the tests.
"""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a NumPy array, or a tensor of the namespace given as `xp`


@dataclass(frozen=True)
class Trend:
    """Which way a sequence of digits goes: constant, rising, falling, rising-falling, ...

    Equal neighbours carry no direction and are skipped, so 1123 is rising, and each of the
    `num_digits ** length` combinations has exactly one label. A label is the final state of a
    small automaton that reads the digits one by one, `state' = NEXT[state, sign(digit -
    previous)]`. State 0 has seen no direction; with `k` directions seen, state `2k - 1`
    started by rising and `2k` by falling. The same table labels sequences (`targets`), counts
    them (`counts`) and draws them uniformly (`sample`).

    Args:
        length: T, digits in a sequence, 2 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> trend = Trend(length=4)
    >>> [trend.class_names[i] for i in trend.targets(np.array([[1, 1, 2, 3], [7, 3, 8, 2]]))]
    ['rising', 'falling-rising-falling']
    >>> trend.counts()
    [10, 705, 705, 2595, 2595, 1695, 1695]
    """

    length: int = 4
    num_digits: int = 10

    def __post_init__(self):
        if not 2 <= self.length <= 32:
            raise ValueError(
                f"Trend: `length` must be 2 to 32 digits; received {self.length}. A single digit "
                "has no trend."
            )
        if not 2 <= self.num_digits <= 100:
            raise ValueError(f"Trend: `num_digits` must be 2 to 100; received {self.num_digits}.")

    @property
    def num_classes(self) -> int:
        """2T - 1: constant, and 1 to T - 1 directions in turn, starting either way."""
        return 2 * self.length - 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in the order of their indices."""
        ways = ("rising", "falling")
        return (
            "constant",
            *(
                "-".join(ways[(start + i) % 2] for i in range(turns))
                for turns in range(1, self.length)
                for start in (0, 1)
            ),
        )

    @cached_property
    def next_state(self) -> np.ndarray:
        """The automaton: `(num_classes, 3)` int64, columns for falling, equal, rising.

        The states of T - 1 directions are final: no sequence of T digits goes beyond them.
        """
        table = np.zeros((self.num_classes, 3), np.int64)
        table[0] = (2, 0, 1)
        for state in range(1, self.num_classes):
            directions, falls_first = (state + 1) // 2, state % 2 == 0
            rises_now = (directions % 2 == 1) != falls_first
            turned = min(state + 2, self.num_classes - 1)
            table[state] = (turned, state, state) if rises_now else (state, state, turned)
        return table

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class of each sequence.

        Args:
            digits: `(B, T)` integers, 0 to `num_digits - 1`.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B,)` int64, 0 to `num_classes - 1`.

        Raises:
            ValueError: if `digits` has another shape (or, in NumPy, dtype or range).
        """
        if xp is np:
            digits = self._checked(digits)
        table = self.next_state.reshape(-1)
        state = xp.zeros_like(digits[:, 0])  # (B,)
        for t in range(1, self.length):
            sign = xp.sign(digits[:, t] - digits[:, t - 1])
            state = xp.take(table, state * 3 + sign + 1)
        return state

    def counts(self) -> list[int]:
        """How many of the `num_digits ** length` combinations each class has, exactly."""
        digit = np.arange(self.num_digits)
        after = self.next_state[:, np.sign(digit - digit[:, None]) + 1]  # (state, previous, digit)
        ways = np.zeros((self.num_classes, self.num_digits), object)  # Python's unbounded integers
        ways[0] = 1
        for _ in range(self.length - 1):
            longer = np.zeros_like(ways)
            for state, previous in np.argwhere(ways):
                longer[after[state, previous], digit] += ways[state, previous]
            ways = longer
        return [int(n) for n in ways.sum(axis=1)]

    @cached_property
    def completions(self) -> np.ndarray:
        """In how many ways `r` more digits lead from a state to a label, as shares of the most.

        `(T, num_classes + 1, num_classes, num_digits)` float64, indexed by r, label, state and
        last digit, filled from r = 0 backwards in time. The extra last label stands for "any"
        and gives each digit the same weight.
        """
        digit = np.arange(self.num_digits)
        after = self.next_state[:, np.sign(digit - digit[:, None]) + 1]  # (state, last, digit)
        ways = np.zeros((self.length, self.num_classes + 1, self.num_classes, self.num_digits))
        ways[0, :-1] = np.eye(self.num_classes)[:, :, None]
        ways[:, -1] = 1.0
        for r in range(1, self.length):
            ways[r, :-1] = ways[r - 1, :-1][:, after, digit].sum(axis=-1) / self.num_digits
        return ways

    def digits_for(self, labels: Array, uniforms: Array, *, xp: ModuleType = np) -> Array:
        """Turns uniform random numbers into digits that have the wanted labels.

        Each digit is drawn in proportion to the number of ways in which the rest can still
        reach the label, so all combinations of a label are equally likely, and none is rejected.

        Args:
            labels: `(B,)` int64; `num_classes` stands for any label (each digit uniform).
            uniforms: `(B, T)` float64 in [0, 1).
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, T)` int64.
        """
        rows, table = self.completions.reshape(-1, 1), self.next_state.reshape(-1)
        digit = np.arange(self.num_digits)
        state = xp.zeros_like(labels)[:, None]  # (B, 1)
        drawn: list[Array] = []
        for t in range(self.length):
            if t > 0:
                state = xp.take(table, state * 3 + xp.sign(digit - drawn[-1]) + 1)  # (B, D)
            remaining = (self.length - 1 - t) * (self.num_classes + 1)
            row = ((remaining + labels[:, None]) * self.num_classes + state) * self.num_digits
            weights = xp.take(rows[:, 0], row + digit)  # (B, D)
            total = xp.cumsum(weights, axis=1)
            below = total <= uniforms[:, t : t + 1] * total[:, -1:]
            drawn.append(xp.sum(xp.where(below, 1, 0), axis=1)[:, None])  # (B, 1)
            if t > 0:
                state = xp.take_along_axis(state, drawn[-1], axis=1)
        return xp.concatenate(drawn, axis=1)

    def sample(
        self,
        num_sequences: int,
        rng: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draws digit sequences, each combination (of its label) with equal probability.

        Args:
            num_sequences: how many.
            rng: the source of randomness.
            labels: `(num_sequences,)` classes to draw for; by default each digit is uniform.

        Returns:
            `(num_sequences, T)` int64.

        Raises:
            ValueError: if `labels` has another shape, or an entry that is no class.

        Example:

        >>> Trend(length=3).sample(2, np.random.default_rng(0), labels=np.array([0, 4]))
        array([[6, 6, 6],
               [1, 0, 9]])
        """
        if labels is None:
            labels = np.full(num_sequences, self.num_classes)
        elif np.shape(labels) != (num_sequences,):
            raise ValueError(
                f"Trend.sample: `labels` must have shape ({num_sequences},), one for each "
                f"sequence; received {np.shape(labels)}."
            )
        elif not np.isin(labels, np.arange(self.num_classes)).all():
            raise ValueError(
                f"Trend.sample: `labels` must be 0 to {self.num_classes - 1}; received "
                f"{np.unique(labels).tolist()}."
            )
        return self.digits_for(
            np.asarray(labels, np.int64), rng.random((num_sequences, self.length))
        )

    def _checked(self, digits: Array) -> np.ndarray:
        digits = np.asarray(digits)
        if digits.ndim != 2 or digits.shape[1] != self.length:
            raise ValueError(
                f"Trend.targets: `digits` must have shape (B, {self.length}); received "
                f"{digits.shape}."
            )
        if digits.dtype.kind not in "iu":
            raise ValueError(f"Trend.targets: `digits` must be integers; received {digits.dtype}.")
        if digits.size and not (digits.min() >= 0 and digits.max() < self.num_digits):
            raise ValueError(
                f"Trend.targets: `digits` must be 0 to {self.num_digits - 1}; received "
                f"{digits.min()} to {digits.max()}."
            )
        return digits.astype(np.int64)
