"""Hostile arguments of what is not in `test_hostile_arrays`: files, runs, weights, the machine.

And a look through all rooms that no public function is left out.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import os
from pathlib import Path

import pytest
from hostile import (
    ANYTHING,
    CLIPS,
    IMAGES,
    PATHS,
    SMALL,
    Either,
    call,
    draw_cases,
    few_and_many,
    fixed,
    like,
    made,
    method,
    of,
    table,
    toy,
    tried,
)
from hypothesis import strategies as st
from test_hostile_arrays import CASES as ARRAYS
from test_hostile_arrays import MODEL_CASES as MODELS
from test_hostile_insights import BUILT
from test_hostile_insights import CASES as INSIGHTS

import keras_cnnlstm
from keras_cnnlstm import (
    benchmark,
    config,
    data,
    export,
    models,
    plots,
    runtime,
    tasks,
    torch_weights,
    training,
)
from keras_cnnlstm.data import clips, datasets, frames
from keras_cnnlstm.models import blocks, encoders
from keras_cnnlstm.utils import files, validation

PATHS = of(*PATHS)


@functools.cache
def toy_reader():
    return models.cnn_lstm((1, 8, 8, 1), 2, **SMALL, per_step=True)


@functools.cache
def toy_encoder():
    return models.conv_pool((2,))


@functools.cache
def toy_weights():
    return torch_weights.to_torch(toy())


@functools.cache
def machine():
    return runtime.Runtime("float32", "one-device")


@pytest.fixture(scope="module", autouse=True)
def toys():
    return toy(), toy_reader(), toy_encoder(), toy_weights(), machine()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def in_environment(**parts):
    """Reads a TF_CONFIG of these parts."""
    before = os.environ.get("TF_CONFIG")
    os.environ["TF_CONFIG"] = json.dumps(parts, default=repr).replace("\\u0000", " ")
    try:
        return runtime.cluster_from_environment()
    finally:
        del os.environ["TF_CONFIG"]
        if before is not None:
            os.environ["TF_CONFIG"] = before


def dataset_of_clips(**arguments):
    """A dataset of nine clips in three classes, which are never read."""
    for number in range(9):
        Path(f"clips/{number % 3}/{'abc'[number // 3]}_{number}").mkdir(parents=True, exist_ok=True)
    return data.video_dataset_from_directory("clips", **arguments)


OPTIONS = {
    field.name: of(getattr(config.TrainConfig(), field.name))
    for field in dataclasses.fields(config.TrainConfig)
}
WHAT = fixed("function: `value`")
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 2.5, "", "worker", "chief", "a:1", "ps"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["worker", "chief", "type", "index"]), inner, max_size=3)
    ),
    max_leaves=6,
)
DICT = st.dictionaries(st.sampled_from(["a", "lstm1.weight_ih_l0", "1"]), ANYTHING, max_size=3)

CASES = table(
    call(validation.is_integer, value=of(3, 0.5)),
    call(validation.is_number, value=of(3, 0.5)),
    call(validation.short_repr, value=of("x")),
    call(validation.check_integer, what=WHAT, value=of(3), low=fixed(0), high=fixed(9)),
    call(validation.check_names, what=WHAT, value=of(["a"])),
    call(validation.check_instance, what=WHAT, value=of(3), types=fixed(int), expected=fixed("one")),
    call(validation.check_dropout, function=fixed("m"), dropout=of(0.5)),
    call(validation.as_numbers, what=WHAT, value=of([1, 2.5])),
    call(validation.as_array, what=WHAT, value=of([1])),
    call(validation.check_number, what=WHAT, value=of(0.5), low=fixed(0), high=fixed(1)),
    call(validation.check_choice, what=WHAT, value=of("a"), choices=fixed(("a", "b"))),
    call(validation.as_shaped, what=WHAT, value=of([1]), dtype=fixed("int64"), shape=fixed(("B",))),
    call(validation.as_integers, what=WHAT, value=of([1]), count=of(1, hostile=st.just(2)), low=fixed(0), high=fixed(2)),
    call(validation.as_classes, what=WHAT, value=of([1]), count=of(1, hostile=st.just(2)), of=fixed("image")),
    call(validation.as_path, what=WHAT, value=of("a")),
    call(export.load_artifact, path=PATHS),
    call(export.located, path=PATHS),
    call(
        benchmark.benchmark,
        batch_size=Either(st.sampled_from([0, -1]), ANYTHING.filter(lambda value: not validation.is_integer(value, 1))),
        lengths=of((4,)), sections=of(("machine",)), repeats=of(1), output=of(None)
    ),
    call(blocks.check_classes, model=of("value", hostile=st.just("m")), num_classes=of(2)),
    call(blocks.checked_units, model=fixed("m"), units=of((3,), [2, 2])),
    call(training.newest_checkpoint, folder=of(Path("no"), hostile=st.just(Path("/dev/null")))),
    call(data.check_clips, root=PATHS, workers=of(None, 1)),
    call(
        clips.check_sampling, function=fixed("f"), length=of(None, 4),
        sampling=of(*clips.SAMPLINGS), stride=of(1, 2)
    ),
    call(clips.checked_clips, function=fixed("f"), clips=of(CLIPS)),
    call(data.probe, clip=of(CLIPS[0])),
    call(
        data.read_clip, clip=of(CLIPS[0]), indices=like((3,), "int64", optional=True),
        image_size=of((8, 8)), channels=of(1, 3), fit=of("crop", "stretch")
    ),
    call(config.TrainConfig, **OPTIONS),
    call(
        config.TrainConfig.from_json, named_by=["config"],
        text=of("{}", "[]", hostile=st.text(max_size=20))
    ),
    call(datasets.check_images, function=fixed("f"), images=of(IMAGES)),
    call(encoders.conv_pool_maps, filters=of((2,), (2, 3)), kernel_size=of(3)),
    call(training.calibrate, run=Either(ANYTHING), confidence_threshold=of(0.5)),
    call(
        export.export, named_by=["load_run", "no/such", "no"],
        model_or_run=of("no/such", Path("no")), path=of("/dev/null/x"),
        format=of("saved_model", "litert", "onnx"), version=of(None, 1),
        class_names=of(None, ["a", "b"])
    ),
    call(
        "exporter.export a model", lambda **options: export.export(toy(), **options),
        path=of("/dev/null/x", hostile=st.just("/dev/null/y")), format=of("saved_model", "onnx"),
        version=of(None, 1), class_names=of(None, ["a", "b"])
    ),
    call(models.fewest_pixels, encoder=made(toy_encoder)),
    call(models.split_model, model=made(toy)),
    call(files.frames_key, frames=like((2, 8, 8, 1), "uint8")),
    call(frames.check_channels, function=fixed("f"), channels=of(1, 3)),
    call(frames.check_fit, function=fixed("f"), fit=of("crop", "stretch")),
    call(clips.check_rate, what=WHAT, value=of(None, 8.0)),
    call(frames.check_indices, function=fixed("f"), indices=like((3,), "int64")),
    call(data.shared_frames, named_by=["a/0", "clips"], split=of({"train": CLIPS[:2]}, {})),
    call(
        "directory_dataset.video_dataset_from_directory", dataset_of_clips,
        labels=of("inferred", None, [0, 1, 2] * 3), label_mode=of("int", "categorical", None),
        class_names=of(None, ["0", "2", "1"]), color_mode=of("rgb", "grayscale"),
        batch_size=of(None, 2), image_size=of((8, 8), [8, 9]), num_frames=of(2),
        sampling=of("uniform", "window"), stride=of(1), frames_per_second=of(None, 8.0),
        lengths=of(False, True), shuffle=of(False, True), seed=of(None, 3),
        validation_split=of(0.3), subset=of("training", "both"), groups=of(None, "^(._)"),
        crop_to_aspect_ratio=of(False), pad_to_aspect_ratio=of(False, True),
        cache=of(None, "kept"), follow_links=of(False), verbose=of(False)
    ),
    call(
        data.write_clips, root=of("/dev/null/x"), clips=of([], hostile=st.just(())),
        form=of("folders", "videos")
    ),
    call(export.open_predictor, path=PATHS),
    call(export.format_of, path=PATHS),
    call(
        models.pretrained, name=of("mobilenet_v3_small"),
        weights=of(None, "imagenet", "no/such.h5"), trainable=of(False, hostile=st.just(True)),
        input_shape=of((8, 8, 3), (40, 40, 2), (0, 0, 3))
    ),
    call(
        models.unfreeze, model=made(toy), layers=of(None, 1, "lstm1")
    ),
    call(training.load_run, path=PATHS),
    call(config.load_config, path=PATHS),
    call(training.load_model, path=PATHS),
    call(data.read_task, path=PATHS),
    call(
        runtime.Runtime, precision=of("auto", "float32", "mixed_float16"),
        strategy=of("auto", "one-device", "multi-worker", "parameter-server", "tpu")
    ),
    method("runtime.Runtime.check_batch_size", machine, batch_size=of(1, 64)),
    method("runtime.Runtime.rows", machine, batch_size=of(64)),
    call(data.write_split, path=of("/dev/null/x"), split=of(data.split_clips(CLIPS))),
    call(data.read_split, path=PATHS, clips=of(CLIPS)),
    call(torch_weights.read_state_dict, path=PATHS),
    call(
        torch_weights.write_state_dict, path=of("/dev/null/x.safetensors"),
        state_dict=Either(st.builds(toy_weights), DICT | ANYTHING)
    ),
    call(models.every_step_model, model=made(toy), orders=of(None, [[1, 0]])),
    call(tasks.row_complete_orders, length=of(2, 5)),
    call(models.encoder_from, models=made(lambda: [toy_reader()]), tta=of(1, 2)),
    call(models.with_test_time_augmentation, model=made(toy), copies=of(2, 7)),
    call(models.average_models, models=made(lambda: [toy(), toy()])),
    call(
        training.member_configs, path=PATHS,
        config=of(config.TrainConfig(ensemble=("small_cnn", "conv_pool")))
    ),
    call(
        training.fold_configs, path=PATHS, config=of(config.TrainConfig(), config.TrainConfig(seed=1))
    ),
    call(models.step_model, model=made(toy)),
    call(
        torch_weights.load_torch, model=made(toy),
        state_dict=Either(st.builds(toy_weights), DICT | ANYTHING),
        ignore=of((), "no such entry", hostile=st.sampled_from(["(", b"a", 3, ["(?P<a"], [None]]))
    ),
    call(
        torch_weights.to_torch, model=made(toy),
        like=Either(st.none() | st.builds(toy_weights), DICT | ANYTHING)
    ),
    call(training.train, config=of(3, "x", {}), resume=of(False, True)),
    call(
        training.resumed_config, named_by=["run_dir", "no"],
        config=of(config.TrainConfig(), config.TrainConfig(run_dir="no"))
    ),
    call(
        training.import_torch, named_by=["path", "no/such", "no", "/dev/null/x"], file=PATHS,
        config=of(config.TrainConfig()), ignore=of((), "fc.*")
    ),
    call(data.video_images, path=PATHS),
    call(
        "cluster.cluster_from_environment", in_environment, named_by=["TF_CONFIG"],
        cluster=Either(st.just({"worker": ["a:1", "b:2"]}), JSON),
        task=Either(st.just({"type": "worker", "index": 0}), JSON)
    ),
)  # fmt: skip


@few_and_many(10, 100)
@pytest.mark.parametrize("name", CASES)
def test_arguments(name, number, ends_well):
    draw_cases(number, lambda draws: tried(CASES[name], draws, ends_well))


INNER = {
    "take what `answer_dict` returned": ["answers.answer_text"],
    "take what a model answers, in its graph": ["metrics.read_text"],
    "take scores": ["scores.accuracy_by_length"],
    "take what a run directory holds": ["registry.task_class", "registry.task_from_config"],
    "read a table, which test_labels draws": ["labels.labelled_clips", "labels.read_labels"],
    "take functions of the caller": ["digit_batches.batches", "timings.interleaved"],
    "take what the package computed": ["memory.out_of_memory_hint"],
    "draw what a report has found": [
        "plots.calibration_figure", "plots.comparison_figure", "plots.curve_figure",
        "files.png_bytes", "plots.data_uri", "plots.figure_png", "plots.image_png", "plots.length_figure",
        "plots.mistake_figure", "plots.overlay", "plots.save_figure",
    ],
}  # fmt: skip
"""Public functions without a case, and why that is so."""


def public_functions():
    """Those that the rooms show to the outside, as "file.function", and those of `plots`."""
    rooms = [path.parent.name for path in Path(keras_cnnlstm.__file__).parent.glob("*/__init__.py")]
    rooms = [importlib.import_module(f"keras_cnnlstm.{room}") for room in rooms]
    shown = [getattr(room, name) for room in rooms for name in getattr(room, "__all__", ())]
    shown += [each for name, each in vars(plots).items() if not name.startswith("_")]
    return {
        f"{each.__module__.rpartition('.')[2]}.{each.__name__}"
        for each in shown
        if inspect.isfunction(each) and each.__module__.startswith("keras_cnnlstm.")
        if each.__module__ != "keras_cnnlstm.utils.validation"
    }


def test_no_public_function_is_left_out():
    tried = {**CASES, **ARRAYS, **MODELS, **INSIGHTS, **BUILT}
    cases = {".".join(name.split(" ")[0].split(".")[:2]) for name in tried}
    inner = {name for names in INNER.values() for name in names}
    assert public_functions() - cases - inner == set(), (
        "draw their arguments, or say who checks them"
    )
    assert inner - public_functions() == set()
    assert inner & cases == set()
