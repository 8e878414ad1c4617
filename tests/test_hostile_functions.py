"""Hostile arguments of what is not in `test_hostile_arrays`: files, runs, weights, the machine.

And a look through all modules that no public function of theirs is left out.
"""

import ast
import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hostile import ANYTHING, Either, call, examples, like, of, tried
from hypothesis import given
from hypothesis import strategies as st
from test_hostile_arrays import CASES as ARRAYS
from test_hostile_arrays import MODEL_CASES as MODELS
from test_hostile_insights import BUILT
from test_hostile_insights import CASES as INSIGHTS

import keras_cnnlstm
from keras_cnnlstm import (
    arguments,
    artefacts,
    benchmark,
    blocks,
    checkpoints,
    clip_checks,
    clips,
    config,
    containers,
    digits,
    encoders,
    ensembles,
    evaluation,
    export,
    features,
    frames,
    leakage,
    models,
    moving_digits,
    predictors,
    prefixes,
    pretrained,
    readers,
    runs,
    runtime,
    splits,
    state_dicts,
    streaming,
    torch_weights,
    training,
    trends,
    videos,
    views,
    workers,
)

CLIPS = [clips.Clip(Path(f"{name}/{i}"), name, f"{name}/{i}") for name in "ab" for i in range(5)]
IMAGES = digits.LabeledImages(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10)
PATHS = of("no/such", "/dev/null/x", Path("no"))
WHAT = Either(st.just("function: `value`"), st.just("function: `value`"))


@functools.cache
def toy():
    """A small model, made before the first case."""
    return models.cnn_lstm((None, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,))


@functools.cache
def toy_reader():
    return models.cnn_lstm((1, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,), per_step=True)


@functools.cache
def toy_encoder():
    return encoders.conv_pool((2,))


@functools.cache
def state_dict():
    return torch_weights.to_torch(toy())


@functools.cache
def machine():
    return runtime.Runtime("float32", "one-device")


@pytest.fixture(scope="module", autouse=True)
def toys():
    (
        toy(),
        toy_reader(),
        toy_encoder(),
        state_dict(),
        machine(),
    )  # Keras draws random seeds, which a strategy must not


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def in_environment(**cluster):
    """Reads a TF_CONFIG of these parts."""
    before = os.environ.get("TF_CONFIG")
    os.environ["TF_CONFIG"] = json.dumps(cluster, default=repr).replace("\\u0000", " ")
    try:
        return workers.cluster_from_environment()
    finally:
        del os.environ["TF_CONFIG"]
        if before is not None:
            os.environ["TF_CONFIG"] = before


def model_of(make):
    return Either(st.builds(make), ANYTHING)


OPTIONS = {
    field.name: of(getattr(config.TrainConfig(), field.name))
    for field in dataclasses.fields(config.TrainConfig)
}
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 2.5, "", "worker", "chief", "a:1", "ps"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["worker", "chief", "type", "index"]), inner, max_size=3)
    ),
    max_leaves=6,
)
DICT = st.dictionaries(st.sampled_from(["a", "lstm1.weight_ih_l0", "1"]), ANYTHING, max_size=3)

CASES = {
    "arguments.is_whole": call(arguments.is_whole, value=of(3, 0.5)),
    "arguments.is_number": call(arguments.is_number, value=of(3, 0.5)),
    "arguments.told": call(arguments.told, value=of("x")),
    **{
        f"arguments.{check.__name__}": call(check, what=WHAT, value=of(fitting), **more)
        for check, fitting, more in [
            (arguments.check_whole, 3, {"low": of(0, hostile=st.just(1)), "high": of(9, hostile=st.just(2))}),
            (arguments.check_names, ["a"], {}),
            (arguments.check_kind, 3, {"kinds": of(int, hostile=st.just(str)), "expected": of("one", hostile=st.just("two"))}),
            (arguments.as_numbers, [1, 2.5], {}),
            (arguments.as_array, [1], {}),
            (arguments.as_classes, [1], {"count": of(1, hostile=st.just(2)), "of": of("image", hostile=st.just("clip"))}),
            (arguments.as_path, "a", {}),
        ]
    },
    "artefacts.load_artefact": call(artefacts.load_artefact, path=PATHS),
    "artefacts.located": call(artefacts.located, path=PATHS),
    "benchmark.benchmark": call(
        benchmark.benchmark, batch_size=Either(st.sampled_from([0, -1]), ANYTHING.filter(lambda value: not arguments.is_whole(value, 1))), lengths=of((4,)), sections=of(("machine",)), repeats=of(1), output=of(None)
    ),
    "blocks.check_classes": call(blocks.check_classes, model=of("value", hostile=st.just("m")), num_classes=of(2)),
    "arguments.check_dropout": call(arguments.check_dropout, function=of("m", hostile=st.just("m")), dropout=of(0.5)),
    "blocks.checked_units": call(
        blocks.checked_units, model=of("m", hostile=st.just("m")), units=of((3,), [2, 2])
    ),
    "checkpoints.newest_checkpoint": call(checkpoints.newest_checkpoint, folder=of(Path("no"), hostile=st.just(Path("/dev/null")))),
    "clip_checks.check_clips": call(
        clip_checks.check_clips, root=PATHS, workers=of(None, 1)
    ),
    "clips.check_sampling": call(
        clips.check_sampling, function=of("f", hostile=st.just("f")), length=of(None, 4),
        sampling=of(*clips.SAMPLINGS), stride=of(1, 2),
    ),
    "clips.checked_clips": call(
        clips.checked_clips, function=of("f", hostile=st.just("f")), clips=of(CLIPS)
    ),
    "clips.probe": call(clips.probe, clip=of(CLIPS[0])),
    "clips.read_clip": call(
        clips.read_clip, clip=of(CLIPS[0]), indices=like((3,), "int64", optional=True),
        image_size=of((8, 8)), channels=of(1, 3),
    ),
    "config.TrainConfig": call(config.TrainConfig, **OPTIONS),
    "config.TrainConfig.from_json": call(
        config.TrainConfig.from_json, text=of("{}", "[]", hostile=st.text(max_size=20))
    ),
    "containers.promised_size": call(containers.promised_size, path=PATHS),
    "digits.check_images": call(
        digits.check_images, function=of("f", hostile=st.just("f")), images=of(IMAGES)
    ),
    "encoders.conv_pool_maps": call(
        encoders.conv_pool_maps, filters=of((2,), (2, 3)), kernel_size=of(3)
    ),
    "evaluation.calibrate": call(
        evaluation.calibrate, run=Either(ANYTHING), unsure_below=of(0.5)
    ),
    "export.export": call(
        export.export, model_or_run=of("no/such", Path("no")), path=of("/dev/null/x"),
        format=of("saved_model", "litert", "onnx"), version=of(None, 1), class_names=of(None, ["a", "b"]),
    ),
    "export.export a model": call(
        lambda **options: export.export(toy(), **options), path=of("/dev/null/x", hostile=st.just("/dev/null/y")),
        format=of("saved_model", "onnx"), version=of(None, 1), class_names=of(None, ["a", "b"]),
    ),
    "encoders.fewest_pixels": call(encoders.fewest_pixels, encoder=model_of(toy_encoder)),
    "features.split_model": call(features.split_model, model=model_of(toy)),
    "features.frames_key": call(features.frames_key, frames=like((2, 8, 8, 1), "uint8")),
    "frames.image_shape": call(frames.image_shape, path=PATHS),
    "frames.check_channels": call(
        frames.check_channels, function=of("f", hostile=st.just("f")), channels=of(1, 3)
    ),
    "frames.check_indices": call(
        frames.check_indices, function=of("f", hostile=st.just("f")), indices=like((3,), "int64")
    ),
    "leakage.shared_frames": call(leakage.shared_frames, split=of({"train": CLIPS[:2]}, {})),
    "moving_digits.write_clips": call(
        moving_digits.write_clips, root=of("/dev/null/x"), clips=of([], hostile=st.just(())), form=of("folders", "videos")
    ),
    "predictors.open_predictor": call(predictors.open_predictor, path=PATHS),
    "predictors.kind_of": call(predictors.kind_of, path=PATHS),
    "pretrained.pretrained": call(
        pretrained.pretrained, name=of("mobilenet_v3_small"), weights=of(None, "imagenet", "no/such.h5"),
        trainable=of(False, hostile=st.just(True)), input_shape=of((8, 8, 3), (40, 40, 2), (0, 0, 3)),
    ),
    "pretrained.unfreeze": call(
        pretrained.unfreeze, model=model_of(toy), layers=of(None, 1, "lstm1", ["lstm1"]),
        batch_norm=of(False, hostile=st.just(True)),
    ),
    **{
        f"runs.{reader.__name__}": call(reader, path=PATHS)
        for reader in (runs.load_run, runs.load_config, runs.read_classes, runs.load_model)
    },
    "runtime.Runtime": call(
        runtime.Runtime, precision=of("auto", "float32", "mixed_float16"),
        strategy=of("auto", "one-device", "multi-worker", "parameter-server", "tpu"),
    ),
    "runtime.Runtime.check_batch_size": call(
        lambda batch_size: machine().check_batch_size(batch_size), batch_size=of(1, 64)
    ),
    "runtime.Runtime.rows": call(lambda batch_size: machine().rows(batch_size), batch_size=of(64)),
    "splits.write_split": call(splits.write_split, path=of("/dev/null/x"), split=of(splits.split_clips(CLIPS))),
    "splits.read_split": call(splits.read_split, path=PATHS, clips=of(CLIPS)),
    "state_dicts.read_state_dict": call(state_dicts.read_state_dict, path=PATHS),
    "state_dicts.write_state_dict": call(
        state_dicts.write_state_dict, path=of("/dev/null/x.safetensors"), state_dict=Either(st.builds(state_dict), DICT | ANYTHING)
    ),
    "prefixes.every_step_model": call(
        prefixes.every_step_model, model=model_of(toy), orders=of(None, [[1, 0]])
    ),
    "trends.row_complete_orders": call(trends.row_complete_orders, length=of(2, 5)),
    "readers.mean_reader": call(
        readers.mean_reader, models=model_of(lambda: [toy_reader()]), views=of(1, 2)
    ),
    "views.average_views": call(views.average_views, model=model_of(toy), views=of(2, 7)),
    "ensembles.average_models": call(
        ensembles.average_models, models=model_of(lambda: [toy(), toy()])
    ),
    "ensembles.member_configs": call(
        ensembles.member_configs, config=of(config.TrainConfig(members=3)), path=PATHS
    ),
    "streaming.step_model": call(streaming.step_model, model=model_of(toy)),
    "torch_weights.load_torch": call(
        torch_weights.load_torch, model=model_of(toy), state_dict=Either(st.builds(state_dict), DICT | ANYTHING)
    ),
    "torch_weights.to_torch": call(
        torch_weights.to_torch, model=model_of(toy), like=Either(st.none() | st.builds(state_dict), DICT | ANYTHING)
    ),
    "training.train": call(training.train, config=of(3, "x", {}), resume=of(False, True)),
    "training.resumed_config": call(
        training.resumed_config, config=of(config.TrainConfig(), config.TrainConfig(run_dir="no"))
    ),
    "training.import_torch": call(
        training.import_torch, file=PATHS, config=of(config.TrainConfig())
    ),
    "videos.video_images": call(lambda path: next(iter(videos.video_images(path))), path=PATHS),
    "workers.cluster_from_environment": call(
        in_environment,
        cluster=Either(st.just({"worker": ["a:1", "b:2"]}), JSON),
        task=Either(st.just({"type": "worker", "index": 0}), JSON),
    ),
}  # fmt: skip
# What errors name in place of an argument.
NAMED_BY = {
    "workers.cluster_from_environment": ["TF_CONFIG"],
    "config.TrainConfig.from_json": ["config"],
    "training.resumed_config": ["run_dir", "no"],
    "training.import_torch": ["path", "no/such", "no", "/dev/null/x"],
    "export.export": ["load_run", "no/such", "no"],
    "leakage.shared_frames": ["a/0", "clips"],
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(10)
def test_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well, NAMED_BY.get(name, ()))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(100)
def test_many_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well, NAMED_BY.get(name, ()))


INNER = {
    "say what `as_json` answered": ["answers.as_text", "answers.headline"],
    "take what loaded, or what another function of the package made": [
        "artefacts.answer", "annotations.check_type", "artefacts.is_version", "artefacts.required", "ensembles.as_given",
        "benchmark.shares", "streaming.chain_of", "calibration.facts_as_text", "checkpoints.restore_checkpoint",
        "checkpoints.save_checkpoint", "clip_cache.fingerprint", "clip_cache.read_chosen",
        "features.encode_images", "features.fingerprint", "frames.fit_image", "frames.is_image",
        "frames.natural_order", "frames.opened_image", "layer_weights.weighted_layers",
        "leakage.image_pixels", "leakage.is_blank", "leakage.native_frames",
        "leakage.pixel_digest", "leakage.progress_line", "pipeline.batches", "pipeline.described",
        "distortions.bent", "distortions.distorted", "distortions.erased", "distortions.redrawn", "plots.save_figure", "prefixes.last_step_accuracy", "pretrained.leaf_layers", "runs.new_run_dir",
        "runs.read_vocabulary", "runs.save_model", "run_writer.stopping",
        "scores.accuracy_by_length", "scores.score_answers", "scores.summary", "sentences.shifted",
        "sources.digit_task", "sources.write_example", "splits.listed",
        "state_dicts.checked_arrays", "state_dicts.is_counter", "state_dicts.natural",
        "state_dicts.torch_modules", "stratification.stratify", "timings.against_row", "timings.interleaved",
        "timings.times_as_fast", "timings.timing_row", "views.neighbours",
    ],
    "tell what a report found out about a run": [
        "baselines.bag_of_frames", "baselines.majority", "baselines.oracle",
        "baselines.read_batches", "baselines.readings", "baselines.shuffled",
        "mistakes.answers_so_far", "mistakes.evidence", "mistakes.explain", "mistakes.reasons",
        "mistakes.stream_of", "report.write_report", "report_page.after",
        "report_page.page_context",
    ],
    "draw what a report found out about a run": [
        "report_figures.calibration_figure", "report_figures.comparison_figure",
        "report_figures.curve_figure", "report_figures.data_uri", "report_figures.figure_png",
        "report_figures.image_png", "report_figures.length_figure",
        "report_figures.mistake_figure", "report_figures.overlay",
    ],
    "write what `DemoAnswers` answered, as HTML": [
        "demo_pad.pad", "demo_page.answer", "demo_page.in_words", "demo_page.intro",
        "demo_page.problem",
    ],
    "are parts of models, whose builders check": [
        "blocks.answer", "blocks.check_weights", "blocks.dense_stack", "blocks.frames_input",
        "blocks.rescaled", "blocks.reset_states", "blocks.some_dropped", "blocks.state_inputs", "blocks.state_names",
        "framewise.encoded", "framewise.floats", "framewise.frame_encoder",
        "framewise.sequence_input",
    ],
    "are the inside of `grad_cam`": [
        "class_maps.class_maps", "class_maps.enlarged", "class_maps.shown_layer",
    ],
    "are the inside of a training": [
        "objectives.adopt_weights", "objectives.build_model", "objectives.compile_model",
        "objectives.model_options", "objectives.sentence_accuracy", "objectives.text_accuracy",
        "replicas.check_keras",
    ],
    "check for others, whose cases are here": [
        "arguments.check_model", "digit_reader.check_reader", "frames.check_pixels", "frames.checked_size",
        "learning_curves.check_recalls", "pipeline.check_batches",
    ],
    "run among several workers": [
        "workers.alone", "workers.any_of", "workers.check_agreement", "workers.distribute",
        "workers.join", "workers.several_workers", "workers.sum_of_replicas",
        "workers.wait_for_all",
    ],
    "take paths that the package made": [
        "files.locked", "files.read_text", "files.replacing", "files.write_text",
    ],
    "take nothing": [
        "memory.available_memory", "processor.native_bfloat16", "processor.num_cores",
        "processor.processor_flags", "processor.processor_name",
    ],
    "is `answers.read_text` by another name": ["scanners.read_text"],
    "is `runs.load_model` by another name": ["model_files.read_model"],
    "have their cases in test_hostile_commands": [
        "cli.main", "commands.one_line", "commands.parse", "sources.batches_to_score",
    ],
}  # fmt: skip
INNER_MODULES = {
    "benchmark_machine": "measures what `benchmark` has checked",
    "benchmark_models": "measures what `benchmark` has checked",
    "benchmark_exports": "measures what `benchmark` has checked",
    "benchmark_pipeline": "measures what `benchmark` has checked",
    "benchmark_scale": "measures what `benchmark` has checked",
    "benchmark_torch": "measures what `benchmark` has checked",
    "converters": "writes the model that `export` has opened and checked",
    "endpoints": "is what `export` puts around a model, as a graph",
    "task_arguments": "holds the checks that every task calls",
    "findings": "takes the open run, its data and what the model answered",
    "parity": "compares what `export` wrote with the model",
    "report_facts": "takes the scores of `findings`",
}
"""Modules of which users call nothing, and why that is so."""


def public_functions():
    folder = Path(keras_cnnlstm.__file__).parent
    return {
        f"{path.stem}.{node.name}"
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def test_no_public_function_is_left_out():
    tried = {**CASES, **ARRAYS, **MODELS, **INSIGHTS, **BUILT}
    cases = {".".join(name.split(" ")[0].split(".")[:2]) for name in tried}
    modules = {path.stem for path in Path(keras_cnnlstm.__file__).parent.glob("*.py")}
    assert modules >= INNER_MODULES.keys()
    assert not {name.split(".")[0] for name in cases} & INNER_MODULES.keys()
    functions = {name for name in public_functions() if name.split(".")[0] not in INNER_MODULES}
    inner = {name for names in INNER.values() for name in names}
    assert functions - cases - inner == set(), "draw their arguments, or say who checks them"
    assert inner - functions == set()
    assert inner & cases == set()
