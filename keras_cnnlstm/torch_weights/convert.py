"""Weights from PyTorch and back: a `state_dict` <-> the weights of a Keras model.

Needs neither PyTorch nor pickle. It converts what the two store differently:

| PyTorch | Keras | conversion |
|---|---|---|
| `Conv2d.weight (O, I, H, W)` | `Conv2D.kernel (H, W, I, O)` | transposed (2, 3, 1, 0) |
| the same of `groups=O (O, 1, H, W)` | `DepthwiseConv2D.kernel (H, W, O, 1)` | (2, 3, 0, 1) |
| `Linear.weight (O, I)` | `Dense.kernel (I, O)` | transposed |
| `LSTM.weight_ih_l0 (4U, I)`, `weight_hh_l0 (4U, U)` | `kernel`, `recurrent_kernel` | transposed |
| `LSTM.bias_ih_l0 (4U,)`, `bias_hh_l0 (4U,)` | `bias` | their sum; back: the sum and zeros |
| `BatchNorm.weight, bias, running_mean, running_var` | `gamma, beta, ...` | as they are |

The gates of an LSTM have the same order in both. PyTorch flattens a map as (C, H, W), Keras as
(H, W, C): a Dense, LSTM or BatchNormalization that reads a flattened map gets its input rows
permuted. So does one that reads the columns of a map as steps, (C, H) in PyTorch, (H, C) in Keras,
or its rows or patches. This holds for maps of convolutions and for raw images; the outputs of an
LSTM have their features last in both, and frames side by side as the channels of one image are
(T, C) in both.

A `state_dict` holds weights but no settings. Check these by hand:

* `BatchNormalization` has an `epsilon` of 1e-3, PyTorch's has 1e-5.
* A convolution or pooling with strides and padding "same" pads differently in PyTorch.
* `Bidirectional(LSTM(units))`, which returns its last outputs only, is
  `torch.cat([h_n[-2], h_n[-1]], 1)` in PyTorch, not `output[:, -1]`, where the backward half has
  read a single step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_cnnlstm.torch_weights.layer_map import Slot, Unit, weighted_layers
from keras_cnnlstm.torch_weights.state_dict import (
    Module,
    StateDict,
    checked_arrays,
    is_counter,
    natural,
    torch_modules,
)


class Move(NamedTuple):
    """One Keras variable, and the entries of the `state_dict` that went into it.

    Attributes:
        torch: names in PyTorch: one, the two biases of an LSTM, or none of an LSTM without biases.
        torch_shape: the shape of each of them.
        keras: the path of the variable.
        keras_shape: its shape.
        done: the conversion, such as "transposed (2, 3, 1, 0)".
    """

    torch: tuple[str, ...]
    torch_shape: tuple[int, ...]
    keras: str
    keras_shape: tuple[int, ...]
    done: str


@dataclass(frozen=True)
class Report:
    """What went where. As text, an aligned table with the notes below.

    Attributes:
        moves: one for each variable, in the order of the model's layers.
        notes: how modules of one type were matched, settings to check, ignored entries.
    """

    moves: tuple[Move, ...]
    notes: tuple[str, ...]

    def __str__(self):
        rows = [("PyTorch", "shape", "Keras", "shape", "done")]
        for names, torch_shape, path, keras_shape, done in self.moves:
            rows.append((" + ".join(names), str(torch_shape), path, str(keras_shape), done))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes])


def load_torch(
    model: keras.Model, state_dict: Mapping[str, Any], *, ignore: str | Sequence[str] = ()
) -> Report:
    """Sets the weights of a Keras model from those of a PyTorch one, all or none.

    Modules are matched with layers of the same type: by name, if the names are those of the layers;
    else in the order of `state_dict`, which in PyTorch is that of the modules; or in natural order
    of the names (2 before 10), which comes first if the entries are sorted, as in files; or by
    shape, if exactly one assignment fits. The report names modules of equal shapes, which only the
    order distinguishes.

    Args:
        model: a built functional or Sequential model, nested or not, whose weights are all in
            Conv2D (of any `groups`), DepthwiseConv2D, Dense, LSTM, Bidirectional(LSTM) and
            BatchNormalization layers, plain or in TimeDistributed. Of `LSTM(bias=False)` the
            biases become zeros.
        state_dict: names -> floating-point arrays, or anything that `np.asarray` takes, such as
            PyTorch's tensors in memory. Each layer of an LSTM module is a Keras layer;
            `num_batches_tracked` is ignored.
        ignore: regular expressions for whole names of entries to leave out, such as "fc.*" for a
            classifier that the Keras model does not have.

    Returns:
        What went where; print it.

    Raises:
        ValueError: if the model has other layers with weights, `state_dict` does not fit it, or
            `ignore` is no regular expression. The model is then as it was.

    Example:

    >>> vector = keras.Input((4,))
    >>> model = keras.Model(vector, keras.layers.Dense(2, name="scores")(vector))
    >>> print(load_torch(model, {"fc.weight": np.ones((2, 4)), "fc.bias": np.zeros(2)}))
    PyTorch    shape   Keras          shape   done
    fc.weight  (2, 4)  scores/kernel  (4, 2)  transposed (1, 0)
    fc.bias    (2,)    scores/bias    (2,)    as it is
    """
    units = weighted_layers(model)
    arrays = checked_arrays("state_dict", state_dict, ignore)
    modules = torch_modules("state_dict", arrays)
    partners, notes = _match("state_dict", units, modules, without_bias=True)
    moves = []
    for slot, names in _named(units, partners):  # every shape has been checked by now
        variable = slot.variable
        shape = tuple(variable.shape)
        if names:
            variable.assign(slot.to_keras([arrays[name] for name in names]))
        else:
            variable.assign(np.zeros(shape))
        done = slot.done if names else "zeros, of an LSTM without biases"
        moves.append(Move(names, slot.torch_shape, variable.path, shape, done))
    notes += [unit.note for unit in units if unit.note]
    ignored = [name for name in state_dict if name not in arrays or is_counter(name)]
    notes += [f"Ignored: {', '.join(ignored)}."] if ignored else []
    return Report(tuple(moves), tuple(notes))


def to_torch(model: keras.Model, *, like: Mapping[str, Any] | None = None) -> StateDict:
    """The weights of a Keras model as a PyTorch `state_dict`.

    Args:
        model: as `load_torch` takes it.
        like: a `state_dict` of the PyTorch model, for its names, order and shapes, and for
            `num_batches_tracked`, which Keras does not count. Without it, names are made of the
            Keras layers', as `summary(expand_nested=True)` shows them: `conv1.weight`,
            `lstm1.weight_ih_l0`, in a nested model `encoder.conv1.weight`.

    Returns:
        Names -> float32 arrays, `num_batches_tracked` int64. In PyTorch:
        `load_state_dict({name: torch.from_numpy(array) for name, array in ...})`.

    Raises:
        ValueError: if the model has other layers with weights, or `like` does not fit it.

    Example:

    >>> model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(2, name="lstm")])
    >>> list(to_torch(model))
    ['lstm.weight_ih_l0', 'lstm.weight_hh_l0', 'lstm.bias_ih_l0', 'lstm.bias_hh_l0']
    """
    units = weighted_layers(model)
    if like is None:
        arrays: StateDict = {}
        partners = {unit.name: _module(unit) for unit in units}
    else:
        arrays = checked_arrays("like", like)
        partners, _ = _match("like", units, torch_modules("like", arrays))
    for slot, names in _named(units, partners):
        arrays |= dict(zip(names, slot.to_torch(), strict=True))
    if like is None:
        counted = [unit.name for unit in units if unit.type == "BatchNorm"]
        arrays |= {f"{name}.num_batches_tracked": np.zeros((), np.int64) for name in counted}
    return arrays


def _named(
    units: Sequence[Unit], partners: Mapping[str, Module]
) -> Iterator[tuple[Slot, tuple[str, ...]]]:
    """All variables, and the names of the entries that belong to each."""
    for unit in units:
        for slot in unit.slots:
            names = partners[unit.name].names
            yield slot, tuple(names[entry] for entry in slot.entries if entry in names)


def _module(unit):
    """The PyTorch module of a layer, under the same name."""
    label, suffix = (f"{unit.name}.l0", "_l0") if unit.type == "LSTM" else (unit.name, "")
    names = {}
    for entry in unit.torch_shapes:
        parameter, reverse, _ = entry.partition("_reverse")
        names[entry] = f"{unit.name}.{parameter}{suffix}{reverse}"
    return Module(unit.type, label, names, unit.torch_shapes)


def _match(argument, units, received, *, without_bias=False):
    """The module of each layer by the layer's name, and notes on how it was found.

    `without_bias`: whether an LSTM module may lack the biases that its layer has.
    """
    partners: dict[str, Module] = {}
    notes: list[str] = []
    misfits: list[str] = []
    for kind in dict.fromkeys(x.type for x in (*units, *received)):
        mine = [unit for unit in units if unit.type == kind]
        theirs = [module for module in received if module.type == kind]
        fits = _fits_without_bias if without_bias and kind == "LSTM" else _fits
        how, ordered = _in_order(mine, theirs, fits)
        partners |= {unit.name: module for unit, module in zip(mine, ordered, strict=False)}
        if not how:
            misfits += _misfits(mine, theirs, fits)
        elif len(mine) > 1:
            notes.append(f"{kind}: matched {how}{_alike(ordered)}.")
    if misfits:
        raise ValueError(
            f"{argument}: expected modules that fit the model's layers; received "
            f"{'; '.join(misfits)}. Build the Keras model with the layers and sizes of the PyTorch "
            "one, give the entries in the order of its layers, and ignore entries without a layer."
        )
    return partners, notes


def _fits(unit, module):
    return module.shapes == unit.torch_shapes


def _fits_without_bias(unit, module):
    """Whether they fit, or would if the module's biases were zeros."""
    weights = {k: v for k, v in unit.torch_shapes.items() if not k.startswith("bias")}
    return module.shapes in (unit.torch_shapes, weights)


def _in_order(units, received, fits):
    """How modules were ordered to fit the layers, and the ordered ones; "" if nothing fits."""
    for how, order in _orders(units, received, fits):
        if len(order) == len(units) and all(map(fits, units, order)):
            return how, order
    return "", []


def _orders(units, received, fits):
    """The possible orders of the modules, the most certain first."""
    by_label = {module.label: module for module in received}
    labels = [_module(unit).label for unit in units]
    if set(labels) == set(by_label):
        yield "by the layers' names", [by_label[label] for label in labels]
    natural_order = sorted(received, key=lambda module: natural(module.label))
    orders = [
        ("in the order of the entries", received),
        ("in natural order of names", natural_order),
    ]
    if received in (natural_order, [by_label[label] for label in sorted(by_label)]):
        orders.reverse()  # entries sorted by name do not show the modules' own order
    yield from orders
    fitting = [[m for m in received if fits(unit, m)] for unit in units]
    found = {module.label for modules in fitting for module in modules}
    if all(len(modules) == 1 for modules in fitting) and found == set(by_label):
        yield "by shape, which fits in this order only", [modules[0] for modules in fitting]


def _alike(ordered):
    """A note on modules that would fit in any order."""
    shapes = [module.shapes for module in ordered]
    alike = [module.label for module in ordered if shapes.count(module.shapes) > 1]
    return f"; by this alone, as their shapes are equal, {', '.join(alike)}" if alike else ""


def _misfits(units, received, fits):
    """In words, the layers and modules of one type that fit nothing."""
    alone, left = [], list(received)
    for unit in units:
        partner = next((module for module in left if fits(unit, module)), None)
        if partner:
            left.remove(partner)
        else:
            alone.append(unit)
    if not alone and not left:
        labels = ", ".join(module.label for module in received)
        return [f"{labels}, whose order does not fit and whose shapes fit in several orders"]
    return [_misfit(unit, module) for unit, module in zip_longest(alone, left)]


def _misfit(unit, module):
    """The first entry in which a layer and a module differ; either may be None."""
    slots = {entry: slot for slot in unit.slots for entry in slot.entries} if unit else {}
    wanted, shapes = unit.torch_shapes if unit else {}, module.shapes if module else {}
    entry = next(e for e in wanted | shapes if wanted.get(e) != shapes.get(e))
    names = module.names if module else {}
    if entry not in slots:
        owner = unit.name if unit else "the model"
        return f"{names[entry]} {shapes[entry]}, for which {owner} has no weights"
    variable = slots[entry].variable
    needs = f"{variable.path} {tuple(variable.shape)}, which needs {slots[entry].torch_shape}"
    if entry not in names:
        return f"no {entry} for {needs}"
    return f"{names[entry]} {shapes[entry]} for {needs}"
