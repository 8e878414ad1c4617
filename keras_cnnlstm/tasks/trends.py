"""Which way do the digits go? The trend of a sequence, and the automaton that decides it."""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from keras_cnnlstm.tasks.digit_task import (
    Array,
    DigitTask,
    ReadDigits,
    check_range,
    checked_digits,
    checked_uniforms,
)
from keras_cnnlstm.utils.validation import as_classes, check_instance, check_number, short_repr

if TYPE_CHECKING:
    import keras

_MOST = 10**8  # sequences drawn at once; more do not fit into memory
_STATES = 1500  # of the automaton times digits: the most for which the ceiling is computed


@dataclass(frozen=True)
class Trend(DigitTask):
    """Which way a sequence of digits goes: constant, rising, falling, rising-falling, ...

    Equal neighbours carry no direction and are skipped, so 1123 is rising, and each of the
    `num_digits ** length` combinations has exactly one label. A label is the final state of a
    small automaton that reads the digits one by one, `state' = NEXT[state, sign(digit -
    previous)]`. State 0 has seen no direction; with `k` directions seen, state `2k - 1`
    started by rising and `2k` by falling. The same table labels sequences (`targets`), counts
    them (`class_counts`) and draws them uniformly (`sample`).

    Args:
        length: T, digits in a sequence, 2 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> trend = Trend(length=4)
    >>> [trend.class_names[i] for i in trend.targets(np.array([[1, 1, 2, 3], [7, 3, 8, 2]]))]
    ['rising', 'falling-rising-falling']
    >>> trend.class_counts()
    [10, 705, 705, 2595, 2595, 1695, 1695]
    """

    lengths = (2, 32)
    variable_length = False
    models: ClassVar[tuple[str, ...]] = (
        "cnn_lstm",
        "bag_of_frames",
        "flat_mlp",
        "early_fusion_cnn",
    )
    can_balance = True
    answers_at_every_step = True
    reads_order = True
    question = "Which way do they go?"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The 2T - 1 classes: constant, and 1 to T - 1 directions in turn, starting either way."""
        ways = ("rising", "falling")
        return (
            "constant",
            *(
                "-".join(ways[(start + i) % 2] for i in range(turns))
                for turns in range(1, self.length)
                for start in (0, 1)
            ),
        )

    @property
    def num_states(self) -> int:
        """2T - 1, one for each class."""
        return 2 * self.length - 1

    @cached_property
    def next_state(self) -> np.ndarray:
        """The automaton: `(num_states, 3)` int64, columns for falling, equal, rising.

        The states of T - 1 directions are final: no sequence of T digits goes beyond them.
        """
        table = np.zeros((self.num_states, 3), np.int64)
        table[0] = (2, 0, 1)
        for state in range(1, self.num_states):
            directions, falls_first = (state + 1) // 2, state % 2 == 0
            rises_now = (directions % 2 == 1) != falls_first
            turned = min(state + 2, self.num_states - 1)
            table[state] = (turned, state, state) if rises_now else (state, state, turned)
        return table

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class of each sequence, `(B,)` int64, 0 to `num_states - 1`.

        Arguments and errors are those of `DigitTask.targets`.
        """
        return self.targets_so_far(digits, xp=xp)[:, -1]

    def targets_so_far(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class of the first digit, of the first two, ... and of the whole sequence.

        The same classes: of fewer digits only the first ones occur, and one digit is constant.

        Args:
            digits: as for `targets`.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, T)` int64.

        Raises:
            ValueError: as `targets`.

        Example:

        >>> Trend(length=4).targets_so_far(np.array([[7, 3, 8, 2]])).tolist()
        [[0, 2, 4, 6]]
        """
        if xp is np:
            digits = checked_digits(self, digits)
        table = self.next_state.reshape(-1)
        states = [xp.zeros_like(digits[:, 0])]  # (B,) each
        for t in range(1, self.length):
            sign = xp.sign(digits[:, t] - digits[:, t - 1])
            states.append(xp.take(table, states[-1] * 3 + sign + 1))
        return xp.stack(states, axis=1)

    def class_counts(self) -> list[int]:
        """How many of the `num_digits ** length` combinations each class has, exactly."""
        digit = np.arange(self.num_digits)
        after = self.next_state[:, np.sign(digit - digit[:, None]) + 1]  # (state, previous, digit)
        ways = np.zeros((self.num_states, self.num_digits), object)  # Python's unbounded integers
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

        `(T, num_states + 1, num_states, num_digits)` float64, indexed by r, label, state and
        last digit, filled from r = 0 backwards in time. The extra last label stands for "any"
        and gives each digit the same weight.
        """
        digit = np.arange(self.num_digits)
        after = self.next_state[:, np.sign(digit - digit[:, None]) + 1]  # (state, last, digit)
        ways = np.zeros((self.length, self.num_states + 1, self.num_states, self.num_digits))
        ways[0, :-1] = np.eye(self.num_states)[:, :, None]
        ways[:, -1] = 1.0
        for r in range(1, self.length):
            ways[r, :-1] = ways[r - 1, :-1][:, after, digit].sum(axis=-1) / self.num_digits
        return ways

    def digits_for(self, labels: Array, uniforms: Array, *, xp: ModuleType = np) -> Array:
        """Turns uniform random numbers into digits that have the wanted labels.

        Each digit is drawn in proportion to the number of ways in which the rest can still
        reach the label, so all combinations of a label are equally likely, and none is rejected.

        Args:
            labels: `(B,)` int64; `num_states` stands for any label (each digit uniform).
            uniforms: `(B, T)` float64 in [0, 1).
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, T)` int64.

        Raises:
            ValueError: if an argument is none of these (in NumPy).
        """
        if xp is np:
            uniforms = checked_uniforms("Trend.digits_for", uniforms, self.length)
            labels = self._checked_labels("digits_for", labels, len(uniforms), self.num_states)
        # As arrays of `xp` from here on: a graph would hold a copy for each use, 10 MB at T = 32.
        rows, table = (xp.asarray(a.reshape(-1)) for a in (self.completions, self.next_state))
        digit = np.arange(self.num_digits)
        state = xp.zeros_like(labels)[:, None]  # (B, 1)
        drawn: list[Array] = []
        for t in range(self.length):
            if t > 0:
                state = xp.take(table, state * 3 + xp.sign(digit - drawn[-1]) + 1)  # (B, D)
            remaining = (self.length - 1 - t) * (self.num_states + 1)
            row = ((remaining + labels[:, None]) * self.num_states + state) * self.num_digits
            weights = xp.take(rows, row + digit)  # (B, D)
            total = xp.cumsum(weights, axis=1)
            below = total <= uniforms[:, t : t + 1] * total[:, -1:]
            drawn.append(xp.sum(xp.where(below, 1, 0), axis=1)[:, None])  # (B, 1)
            if t > 0:
                state = xp.take_along_axis(state, drawn[-1], axis=1)
        return xp.concatenate(drawn, axis=1)

    def draw(self, uniforms: Array, *, balance: float = 0.0, xp: ModuleType = np) -> Array:
        """Digits as `DigitTask.draw`, of a share `balance`, 0 to 1, for a class drawn uniformly."""
        check_number("Trend.draw: `balance`", balance, 0, 1)
        if xp is np:
            uniforms = checked_uniforms("Trend.draw", uniforms, self.length + 2)
        uniform_class = xp.asarray(uniforms[:, 1] * self.num_states, np.int64)
        labels = xp.where(uniforms[:, 0] < balance, uniform_class, self.num_states)  # (B,)
        return self.digits_for(labels, uniforms[:, 2:], xp=xp)

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
        check_range("Trend.sample: `num_sequences` must be {}", num_sequences, 0, _MOST)
        expected = "a numpy.random.Generator"
        check_instance("Trend.sample: `rng`", rng, np.random.Generator, expected)
        if labels is None:
            labels = np.full(num_sequences, self.num_states)
        else:
            labels = self._checked_labels("sample", labels, num_sequences, self.num_states - 1)
        return self.digits_for(labels, rng.random((num_sequences, self.length)))

    def at_every_step(self, *, permuted: bool, group: int) -> "TrendAtEveryStep":
        """What a model may learn besides the trend of the whole; see `TrendAtEveryStep`."""
        return TrendAtEveryStep(self.length, self.num_digits, permuted=permuted, group=group)

    def label_text(self, label: str) -> str:
        """The name of a trend as a person says it.

        Example:

        >>> Trend().label_text("rising-falling")
        'rising, then falling'
        """
        return label.replace("-", ", then ")

    def reading_task(self) -> DigitTask:
        """The task that draws the same sequences, and asks which digit each frame shows."""
        return _TrendDigits(self.length, self.num_digits)

    def _ceiling(self, shares: np.ndarray) -> dict[str, float] | None:
        """The chance that the automaton ends in one state, fed with the digits or the readings."""
        states, count = self.num_states, self.num_digits
        if states * count > _STATES:
            return None
        digit = np.arange(count)
        after = self.next_state[:, np.sign(digit[:, None] - digit) + 1]  # (state, digit, previous)
        # moves[d, s, p, n]: whether digit d leads from state s after digit p to state n.
        moves = np.moveaxis(np.eye(states)[after], 1, 0)
        # joint[s, d, r, e]: the chance of state s after digit d, and r after reading e.
        joint = np.zeros((states, count, states, count))
        joint[0, :, 0, :] = shares / count
        for _ in range(self.length - 1):
            longer = np.zeros_like(joint)
            for d in range(count):
                half = np.tensordot(moves[d], joint, axes=((0, 1), (0, 1)))  # (n, state, digit)
                for e in range(count):
                    moved = np.tensordot(half, moves[e], axes=((1, 2), (0, 1)))  # (n, m)
                    longer[:, d, :, e] = moved * shares[d, e] / count
            joint = longer
        return {"accuracy": float(np.einsum("sdse->", joint))}

    def _checked_labels(self, method, labels, count, most) -> np.ndarray:
        labels = as_classes(f"Trend.{method}: `labels`", labels, count, of="sequence")
        if not np.isin(labels, np.arange(most + 1)).all():
            raise ValueError(
                f"Trend.{method}: `labels` must be 0 to {most}; received "
                f"{short_repr(np.unique(labels).tolist())}."
            )
        return labels.astype(np.int64)


@dataclass(frozen=True)
class _TrendDigits(Trend):
    """Draws what `Trend` draws, and asks for the digits."""

    targets = ReadDigits.targets


@dataclass(frozen=True)
class TrendAtEveryStep(Trend):
    """The trend of the digits so far: one class per step, the last being that of `Trend`.

    What a model of the trend may learn from, too: the answers along the way say which steps rose
    and which fell, and no digit is given away. Nor is it if the same digits are shown in other
    orders, or beside others, each sequence with its trends.

    Args:
        length: as of `Trend`.
        num_digits: as of `Trend`.
        permuted: whether each sequence stands for several orders of its digits.
        group: sequences that exchange their digits, so that each stands for that many: B is a
            multiple of it.

    Raises:
        ValueError: if an argument is out of range.
    """

    permuted: bool = False
    group: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_range("TrendAtEveryStep: `group` must be {} sequences", self.group, 1, 1000)

    def metrics(self) -> "list[keras.metrics.Metric]":
        """Accuracy and recalls of the last step: all steps are learned, the last is the answer."""
        import keras

        from keras_cnnlstm.tasks.metrics import ClassRecall, last_step_accuracy

        accuracy = keras.metrics.MeanMetricWrapper(last_step_accuracy, name="accuracy")
        return [accuracy, ClassRecall(self.num_outputs, last_step=True)]

    @cached_property
    def orders(self) -> np.ndarray:
        """What each of G = `group` sequences stands for, `(G, K, T)`: K sequences, itself last.

        Integers, which say where among the G*T digits of all of them, one sequence after the
        other, a digit is found. For each shift of 1, 2, ..., G - 1 and 0, digit t is that of the
        sequence t times the shift further on, and these T are shown in the orders of
        `row_complete_orders` if they are permuted, else in theirs.
        """
        count, time = self.group, np.arange(self.length)
        orders = row_complete_orders(self.length) if self.permuted else time[None]
        first = np.arange(count)[:, None, None, None]  # of which sequence the first digit is
        shift = np.roll(np.arange(count), -1)[:, None, None]  # 1, 2, ..., 0
        rows = (first + shift * orders) % count  # (G, shifts, orders, T)
        return (rows * self.length + orders).reshape(count, -1, self.length)

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class at each step, sequence by sequence: `(B, K*T)` int64, as `targets_so_far`."""
        count, orders, length = self.orders.shape
        together = xp.reshape(digits, (-1, count * length))
        shown = xp.reshape(xp.take(together, self.orders.reshape(-1), axis=1), (-1, length))
        return xp.reshape(self.targets_so_far(shown, xp=xp), (-1, orders * length))


def row_complete_orders(length: int) -> np.ndarray:
    """Orders of T things in which each of them follows each other equally often.

    Latin squares balanced for neighbours, after Williams, "Experimental designs balanced for the
    estimation of residual effects of treatments", Australian Journal of Scientific Research A 2,
    1949, section 3: once with T orders if T is even, twice with 2T if it is odd.

    Args:
        length: T, 2 or more.

    Returns:
        `(T, T)` or `(2T, T)` integers, each row a permutation, the last one 0 to T - 1.

    Raises:
        ValueError: if `length` is less than 2.

    Example:

    >>> row_complete_orders(4).tolist()
    [[1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1], [0, 1, 2, 3]]
    """
    check_range("row_complete_orders: `length` must be {}", length, 2, 1000)
    steps = np.arange(length)
    zigzag = np.where(steps % 2, (steps + 1) // 2, -(steps // 2))  # 0, 1, -1, 2, -2, ...
    orders = (zigzag + steps[:, None]) % length
    if length % 2:
        orders = np.concatenate([orders, orders[:, ::-1]])
    names = np.argsort(orders[0])  # under which its first order is 0 to T - 1
    return np.roll(names[orders], -1, axis=0)
