"""Divides groups into training, validation and test with the classes in proportion.

Knows nothing of what is in a group but how many clips of each class.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from keras_cnnlstm.arguments import as_array, told

TRAIN, VALIDATION, TEST = range(3)

Sizes = Mapping[str, Mapping[str, int]]
"""Clips of each class in a group, by the name of the group."""


def stratify(sizes: Sizes, shares: Sequence[float], *, seed: int = 0) -> dict[str, int]:
    """Gives each group a part, so that the parts have their shares of each class.

    Groups come in an order drawn from `seed` and their names alone. Each goes to the test part, or
    else to the validation part, if that part comes closer to its shares by it, or else to the
    training part: the greedy step of scikit-learn's `StratifiedGroupKFold` for parts of unequal
    size. Then single groups are moved as long as that brings all parts together closer (the sum of
    the squared differences, in shares of each class, falls). If a class then lacks clips in a part,
    the fewest clips that mend it are moved: an integer linear program that SciPy's HiGHS solves
    exactly.

    Args:
        sizes: clips of each class, by group.
        shares: of training, validation and test, summing to 1; that of validation may be 0.
        seed: another one gives another order.

    Returns:
        `TRAIN`, `VALIDATION` or `TEST` for each group. Each class is in training and in test; of
        the classes with three groups or more, as many as can be are in validation too.

    Raises:
        ValueError: if the shares are out of range, or the groups of a class cannot be divided.

    Example:

    >>> stratify({f"clip {i}": {"waving": 1} for i in range(4)}, (0.5, 0.25, 0.25))
    {'clip 0': 2, 'clip 2': 1, 'clip 3': 0, 'clip 1': 0}
    """
    _check_shares(shares)
    groups = _groups_of_classes(sizes)
    if lone := sorted(name for name in groups if len(groups[name]) == 1):
        raise ValueError(_indivisible(lone, "two groups at least", "each has only one"))
    sizes = {group: sizes[group] for group in sorted(sizes, key=_order(seed))}
    division = _Division(sizes, shares)
    division.fill()
    division.settle()
    part_of = division.part_of
    must = [(name, part) for name in groups for part in (TRAIN, TEST)]
    wish = [(name, VALIDATION) for name in groups if shares[VALIDATION] and len(groups[name]) > 2]
    if all(any(part_of[g] == part for g in groups[name]) for name, part in must + wish):
        return part_of
    return _fewest_moves(sizes, part_of, must, wish)


def _order(seed):
    return lambda group: hashlib.blake2b(
        f"{seed}/{group}".encode(errors="surrogateescape"), digest_size=16
    ).digest()


def _groups_of_classes(sizes) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for group, size in sizes.items():
        for name in size:
            groups[name].append(group)
    return groups


class _Division:
    """A part for each group, all of them in training at first.

    Its deviation is the sum of `(excess / total)^2` over parts and classes, where `excess` is how
    many clips of a class a part has above its share. So classes weigh alike, whatever their sizes.
    """

    def __init__(self, sizes, shares):
        self.sizes, self.part_of = sizes, dict.fromkeys(sizes, TRAIN)
        self.totals: Counter[str] = Counter()
        for size in sizes.values():
            self.totals.update(size)
        self.parts = [part for part in (TEST, VALIDATION, TRAIN) if shares[part] > 0]
        self.excess = self._lacking(shares)
        self.excess[TRAIN] = {
            name: -sum(excess[name] for excess in self.excess.values()) for name in self.totals
        }

    def fill(self):
        """Gives test, and then validation, what brings that part by itself closer to its share."""
        for group, size in self.sizes.items():
            for part in self.parts[:-1]:
                excess = self.excess[part]
                if self._sum(size, lambda name, n, excess=excess: n / 2 + excess[name]) < 0:
                    self._move(group, part)
                    break

    def settle(self):
        """Moves single groups as long as the deviation falls."""
        moved = True
        while moved:
            moved = False
            for group in self.sizes:
                rise, part = min((self._rise(group, part), part) for part in self.parts)
                if rise < -1e-9:  # rounding must not move a group to and fro for ever
                    self._move(group, part)
                    moved = True

    def _lacking(self, shares):
        """Test and validation without clips: they should have one of each class if they can."""
        groups = _groups_of_classes(self.sizes)
        least = {TEST: 2, VALIDATION: 3}  # groups of a class that can be in that part
        return {
            part: {
                name: -max(shares[part] * n, float(len(groups[name]) >= least[part]))
                for name, n in self.totals.items()
            }
            for part in self.parts[:-1]
        }

    def _rise(self, group, part):
        """Half of what the deviation rises by if the group is moved to the part."""
        here = self.part_of[group]
        if here == part:
            return 0.0
        old, new = self.excess[here], self.excess[part]
        return self._sum(self.sizes[group], lambda name, n: n + new[name] - old[name])

    def _sum(self, size, term):
        return sum(n * term(name, n) / self.totals[name] ** 2 for name, n in size.items())

    def _move(self, group, part):
        old, new = self.excess[self.part_of[group]], self.excess[part]
        for name, n in self.sizes[group].items():
            old[name] -= n
            new[name] += n
        self.part_of[group] = part


def _fewest_moves(sizes, part_of, must, wish) -> dict[str, int]:
    """Moves the fewest clips so that the demands are met.

    Args:
        sizes: clips of each class, by group.
        part_of: where the groups are now.
        must: pairs of a class and a part that it has to be in.
        wish: more such pairs, each of which is worth any number of moves, but may stay unmet.

    Returns:
        The part of each group.

    Raises:
        ValueError: if `must` cannot be met.
    """
    solution = _solve(sizes, part_of, must, wish)
    if solution is None:
        raise ValueError(
            _indivisible(
                _knot(sizes, part_of, must),
                "groups that can be divided",
                "no division of the groups leaves each clips in both",
            )
        )
    return solution


def _knot(sizes, part_of, must) -> list[str]:
    """Classes that cannot be divided together, whereas without any one of them they could."""
    knot = sorted({name for name, _ in must})
    for name in list(knot):
        fewer = [other for other in knot if other != name]
        demands = [(other, part) for other, part in must if other in fewer]
        if _solve(sizes, part_of, demands, []) is None:
            knot = fewer
    return knot


def _solve(sizes, part_of, must, wish) -> dict[str, int] | None:
    """The division that meets the demands with the fewest clips moved, if there is one.

    Binary variable `3 * i + p` says whether the i-th group is in part p; those after them say
    which wish is let go.
    """
    names, groups = list(sizes), _groups_of_classes(sizes)
    first = {group: 3 * i for i, group in enumerate(names)}
    let_go = 3 * len(names)
    cost = np.zeros(let_go + len(wish))
    for group, size in sizes.items():
        cost[first[group] + part_of[group]] = -sum(size.values())  # a reward for staying
    cost[let_go:] = 1 - cost.sum()  # more than all moves together
    divided = [[first[group] + part for part in (TRAIN, VALIDATION, TEST)] for group in names]
    demands = [[first[group] + part for group in groups[name]] for name, part in must + wish]
    for i, demand in enumerate(demands[len(must) :]):
        demand.append(let_go + i)
    values = _minimize(cost, divided, demands)
    if values is None:
        return None
    parts = values[:let_go].reshape(-1, 3).argmax(axis=1)
    return dict(zip(names, parts.tolist(), strict=True))


def _minimize(cost, one_of, some_of) -> np.ndarray | None:
    """Binary values of least cost, among each set of `one_of` a single 1, of `some_of` at least."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sets = one_of + some_of
    starts = np.cumsum([0, *map(len, sets)])
    columns = np.fromiter((column for members in sets for column in members), int)
    matrix = csr_array((np.ones(len(columns)), columns, starts), shape=(len(sets), len(cost)))
    most = np.repeat([1, np.inf], [len(one_of), len(some_of)])
    return milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, 1, most),
        options={"mip_rel_gap": 0.0},
    ).x


def _check_shares(shares):
    values = as_array("split_clips: `shares`", shares)
    if (
        values.dtype.kind not in "iuf"
        or values.shape != (3,)
        or not (values >= 0).all()
        or values[TRAIN] * values[TEST] == 0
        or abs(values.sum() - 1) > 1e-6
    ):
        raise ValueError(
            "split_clips: `shares` must be three numbers for training, validation and test that "
            f"sum to 1, only the second of them 0 if any; received {told(shares)}."
        )


def _indivisible(names: Iterable[str], expected, found) -> str:
    return (
        f"split_clips: each class must have {expected}, to stand in training and in test; of "
        f"{', '.join(map(repr, names))} {found}. Record more, give finer groups, or leave a "
        "class out."
    )
