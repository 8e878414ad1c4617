"""The private names of Keras that the package uses, and what it expects of each.

With another version of Keras this file fails first, by the name that changed.
"""

import ast
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnnlstm
from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.utils.model_calls import follow_calls

PACKAGE = Path(keras_cnnlstm.__file__).parent
GRAPH, REPLICAS = "models/graph.py", "runtime/replicated_model.py"
PRIVATE = {  # name -> the one file in which it stands
    "_keras_history": GRAPH,
    "_inbound_nodes": GRAPH,
    "_layers": GRAPH,
    "_flatten_layers": GRAPH,
    "_run_through_graph": GRAPH,
    "_functional": REPLICAS,
    "_inputs_struct": REPLICAS,
    "_outputs_struct": REPLICAS,
    "_maybe_symbolic_build": REPLICAS,
    "_symbolic_build": REPLICAS,
    "_keras_mask": REPLICAS,
    "_all_reduce_sum_gradients": REPLICAS,
    "_get_variable_index": REPLICAS,
    "_momentums": REPLICAS,
    "_velocities": REPLICAS,
    "_cardinality": REPLICAS,  # of TensorFlow
    "keras.src.losses.losses": REPLICAS,
}
NOT_OF_KERAS = {"_asdict", "_replace", "_data", "_homes"}  # of named tuples, Gradio, utils.lazy


def underscored(tree):
    """The names with one underscore that a file defines, and those that it asks objects for."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr")):
                used |= {x.value for x in node.args if isinstance(x, ast.Constant)}
            case ast.Import(names=names):
                used |= {x.name for x in names}
            case ast.ImportFrom(module=name):
                used.add(name)
    private = {x for x in used if isinstance(x, str) and x.startswith("_") and x[:2] != "__"}
    return defined, private | {x for x in used if str(x).startswith(("keras.src", "unittest"))}


def test_each_private_name_stands_in_its_file_alone():
    found, defined = {}, set()
    for path in PACKAGE.rglob("*.py"):
        own, used = underscored(ast.parse(path.read_text()))
        defined |= own
        found[path.relative_to(PACKAGE).as_posix()] = used | own & PRIVATE.keys()
    defined -= PRIVATE.keys()
    places = {(name, path) for path, names in found.items() for name in names - defined}
    assert {place for place in places if place[0] not in NOT_OF_KERAS} == set(PRIVATE.items())


@pytest.fixture
def model():
    """A functional model with a nested one, whose dense layer is called twice."""
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="inside")], name="nested")
    x = keras.Input((4, 3), name="x")
    shared = layers.Dense(3, name="shared")
    y = layers.TimeDistributed(inner, name="wrapper")(shared(shared(x)))
    mask = keras.ops.ones((2, 4), "bool")
    return keras.Model(x, layers.LSTM(2, name="lstm")(y, mask=mask), name="whole")


def names(found):
    return [layer.name for layer in found]


def test_keras_history_and_inbound_nodes(model):
    """`_keras_history` names the layer and the call of it; `_inbound_nodes` keeps the calls."""
    operation, index, place = model.outputs[0]._keras_history
    assert (operation, place) == (model.get_layer("lstm"), 0)
    call = operation._inbound_nodes[index]
    assert call.operation is operation
    assert call.output_tensors[0] is model.outputs[0]
    assert not call.is_input
    assert set(call.arguments.kwargs) == {"mask"}
    (x,) = call.input_tensors
    assert x._keras_history.operation is model.get_layer("wrapper")
    args, kwargs = call.arguments.fill_in({id(x): "its place"})
    assert (args, set(kwargs)) == (("its place",), {"mask"})
    entry = model.inputs[0]._keras_history
    assert entry.operation._inbound_nodes[entry.node_index].is_input
    shared = model.get_layer("shared")._inbound_nodes
    assert shared[1].input_tensors[0] is shared[0].output_tensors[0]


def test_layers_and_flatten_layers(model):
    """`_layers` are those directly inside, `_flatten_layers()` a layer and all inside of it."""
    assert names(model.get_layer("wrapper")._layers) == ["nested"]
    assert model.get_layer("lstm")._layers == [model.get_layer("lstm").cell]
    assert model.get_layer("shared")._layers == []
    block = ResidualBlock(2, name="block")
    assert names(block._layers) == ["conv1", "norm1", "conv2", "norm2"]
    assert names(block._flatten_layers()) == ["block", "conv1", "norm1", "conv2", "norm2"]
    found = names(model._flatten_layers())
    assert found[0] == "whole"
    assert {"x", "shared", "wrapper", "nested", "inside", "lstm", "lstm_cell"} <= set(found)


def test_run_through_graph(model):
    """`_run_through_graph` of a functional model calls `operation_fn(layer)` in place of each."""
    called, x = [], keras.ops.ones((2, 4, 3))

    def hooked(layer):
        return lambda *args, **kwargs: called.append(layer.name) or layer(*args, **kwargs)

    found = model._run_through_graph(x, hooked)
    assert called == ["shared", "shared", "wrapper", "lstm"]
    np.testing.assert_array_equal(found, model(x))
    assert not hasattr(keras.Sequential, "_run_through_graph")


def test_follow_calls_leaves_the_model_as_it_is(model):
    """`clone_model` of Keras takes operations of ours in place of the layers."""
    called = []

    def call(layer, *args, **kwargs):
        called.append((layer.name, args[0].shape))
        return layer.compute_output_spec(*args, **kwargs)

    before = model.get_config()
    graph = follow_calls(model, call, keras.KerasTensor((5, 4, 3)))
    assert [name for name, _ in called] == ["shared", "shared", "wrapper", "lstm"]
    assert {shape for _, shape in called} == {(5, 4, 3)}
    assert (graph.inputs[0].shape, graph.outputs[0].shape) == ((5, 4, 3), (5, 2))
    assert model.get_config() == before
    assert len(model.get_layer("shared")._inbound_nodes) == 2


def test_an_lstm_computes_with_the_cell_that_it_is_given():
    """`every_step_model` gives the cell of one layer to another one."""
    x = keras.random.normal((2, 4, 3), seed=1)
    one, other = LSTM(2, return_sequences=True), LSTM(2)
    expected = one(x)[:, -1]
    other.cell = one.cell
    np.testing.assert_allclose(other(x), expected, atol=1e-6)
    assert {id(w) for w in other.weights} == {id(w) for w in one.weights}


def test_struct_names_of_functional_models(model):
    """`_inputs_struct` and `_outputs_struct` keep the structure; a Sequential has `_functional`."""
    x = {"x": keras.Input((3,), name="x")}
    named = keras.Model(x, {"y": layers.Dense(2)(x["x"])})
    assert named._inputs_struct.keys() == {"x"}
    assert named._outputs_struct.keys() == {"y"}
    functional = model.get_layer("wrapper").layer._functional
    assert isinstance(functional._inputs_struct, keras.KerasTensor)


def test_keras_mask():
    """Keras attaches `_keras_mask` to the outputs of a layer."""
    answers = layers.Masking()(keras.ops.convert_to_tensor([[[1.0], [0.0]]]))
    assert np.asarray(answers._keras_mask).tolist() == [[True, False]]


def test_the_symbolic_build_of_a_model_for_fit():
    """`fit` calls `_maybe_symbolic_build`, which calls `_symbolic_build` with one batch."""
    assert [*inspect.signature(keras.Model._maybe_symbolic_build).parameters] == [
        "self",
        "iterator",
        "data_batch",
    ]
    assert "data_batch" in inspect.signature(keras.Model._symbolic_build).parameters
    for function in (keras.Model.fit, keras.Model.evaluate):
        assert "_maybe_symbolic_build(" in inspect.getsource(function)


def test_all_reduce_sum_gradients():
    """Optimizers sum gradients over the replicas in `_all_reduce_sum_gradients`."""
    optimizer, weight = keras.optimizers.SGD(1.0), keras.Variable([1.0])
    seen, usual = [], optimizer._all_reduce_sum_gradients
    optimizer._all_reduce_sum_gradients = lambda pairs: seen.append(pairs) or usual(pairs)
    optimizer.apply([keras.ops.ones((1,))], [weight])
    (((gradient, _),),) = seen
    assert np.asarray(gradient).tolist() == [1.0]


def test_the_averages_of_adam():
    """`_momentums` and `_velocities` are in the order of `_get_variable_index`."""
    optimizer, weights = keras.optimizers.Adam(), [keras.Variable([1.0]), keras.Variable([2.0, 3])]
    optimizer.build(weights)
    optimizer.apply([keras.ops.ones((1,)), keras.ops.ones((2,))], weights)
    assert [optimizer._get_variable_index(weight) for weight in weights] == [0, 1]
    for averages, value in ((optimizer._momentums, 0.1), (optimizer._velocities, 0.001)):
        for average, weight in zip(averages, weights, strict=True):
            np.testing.assert_allclose(average, np.full(weight.shape, value), rtol=1e-4)


def test_loss_function_wrapper():
    """`compile` makes a `LossFunctionWrapper` of a function; so does a replicated model."""
    from keras.src.losses.losses import LossFunctionWrapper

    loss = LossFunctionWrapper(keras.losses.get("mse"), name="mse")
    assert isinstance(loss, keras.losses.Loss)
    assert float(loss(np.zeros((2, 1)), np.ones((2, 1)))) == 1


def test_cardinality():
    """Keras reads the steps of an epoch from `_cardinality` of a distributed dataset."""
    import tensorflow as tf

    strategy, data = tf.distribute.MirroredStrategy(["CPU:0"]), tf.data.Dataset.range(3)
    distributed = strategy.distribute_datasets_from_function(lambda context: data.batch(1))
    distributed._cardinality = 7
    assert distributed.cardinality == 7
