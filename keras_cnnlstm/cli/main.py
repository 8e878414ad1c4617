"""The command `keras-cnnlstm`: delegates and prints. Imports the heavy parts when needed."""

import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from keras_cnnlstm.cli.commands import (
    Benchmark,
    Calibrate,
    Command,
    Demo,
    Evaluate,
    Export,
    ImportTorch,
    Predict,
    Report,
    Stream,
    Train,
    Validate,
    parse,
)
from keras_cnnlstm.config import ModelConfig, TrainConfig

_TF = "tensorflow"  # as KERAS_BACKEND names it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        The exit code: 0; 2 if the input was bad, after one line on stderr that says so; 1 if
        the training failed by its numbers, or validate found clips that cannot be read; 130 if
        interrupted, 143 if a training was stopped by SIGTERM. With the environment variable
        `KERAS_CNNLSTM_DEBUG=1` the traceback comes with it.
    """
    try:
        return _run(parse(arguments)) or 0
    except BrokenPipeError:  # whoever reads the output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if os.environ.get("KERAS_CNNLSTM_DEBUG"):
            traceback.print_exc()
        print(f"keras-cnnlstm: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt as stop:
        print(f"keras-cnnlstm: {str(stop) or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "exit_code", 130)


def _run(command: Command) -> int | None:
    actions = {
        Train: _train,
        Evaluate: _evaluate,
        Calibrate: _calibrate,
        Report: _report,
        Predict: _predict,
        Stream: _stream,
        Demo: _demo,
        Export: _export,
        ImportTorch: _import_torch,
        Validate: _validate,
        Benchmark: _benchmark,
    }
    # Predict and Validate load it only if they need it; a benchmark must run without.
    other = isinstance(command, Benchmark) and os.environ.get("KERAS_BACKEND", _TF) != _TF
    if not isinstance(command, Predict | Validate) and not other:
        _load_tensorflow()
    return actions[type(command)](command)


def _load_tensorflow() -> None:
    """Loads TensorFlow without the dozen lines that its C++ side logs on every machine.

    No setting turns off what it logs before its logging is set up, so the process's stderr goes
    to a file meanwhile; what is in it is shown if the loading fails. From then on warnings and
    errors are logged, unless the user has set another level.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow as tf

            if "TF_CONFIG" not in os.environ:  # or the workers join before
                tf.config.list_logical_devices()  # sets the devices up, and logs about that too
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _train(command):
    # What scores the model at the end is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.data.run_files import read_task
    from keras_cnnlstm.training.trainer import train

    run = train(command.config, resume=bool(command.resume))
    if not run.metrics:
        print(f"\nthis worker is done; the chief writes {run.path}")
        return
    _print_training(run.metrics["training"])
    shown = run.path
    if "folds" in run.metrics:
        shown = run.path / "folds" / "1"
        _print_scores(run.metrics["test"], read_task(shown))
        print(f"\n{run.metrics['folds']['summary']}")
    else:
        _print_scores(run.metrics["test"], run.task)
        if run.config.reads_clips and run.config.model != "captioner":
            from keras_cnnlstm.evaluation.conclusion import conclusion

            print("\n" + "\n".join(conclusion(run)))
    print(
        f"\nwritten to {run.path}\n"
        f"try: keras-cnnlstm predict {shown} {shown / 'example'}/*.png\n"
        f"look: keras-cnnlstm report {shown}"
    )


def _print_training(facts):
    print(
        f"\ntrained on {facts['sequences']:,} sequences in {facts['seconds']:.0f} s "
        f"({facts['sequences_per_second']:,.0f} a second)",
        end="",
    )
    if "members" not in facts:
        print(f"; best epoch {facts['best_epoch']}, kept epoch {facts['kept_epoch']}")
        return
    print(", all models together; each alone")
    for member in facts["members"]:
        if "accuracy" in member:
            score = f"accuracy {member['accuracy']:.2%}"
        else:
            score = f"root-mean-square error {member['rmse']:.3f}"
        print(f"  {member['run']}  {score}, {member['encoder']}, {member['seconds']:.0f} s")


def _evaluate(command):
    from keras_cnnlstm.training.run_directory import load_run
    from keras_cnnlstm.training.scoring import batches_to_score, score

    run = _averaged(load_run(command.run), command)
    tests, task = batches_to_score(run, data=command.data, num_sequences=command.num_sequences)
    scores = score(run.model, tests, task)
    if command.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores, task)


def _averaged(run, command):
    """The run with the model that averages over the ensemble, and over copies of the frames."""
    from keras_cnnlstm.models.ensembles import average_models, with_test_time_augmentation
    from keras_cnnlstm.training.run_directory import load_run

    if command.ensemble:
        others = [load_run(path) for path in command.ensemble]
        for other in others:
            _check_same_question(run, other)
        run = replace(run, model=average_models([run.model, *(other.model for other in others)]))
    if command.tta == 1:
        return run
    return replace(run, model=with_test_time_augmentation(run.model, command.tta))


def _check_same_question(run, other):
    from keras_cnnlstm.utils.validation import short_repr

    for what, one, another in (
        ("that read frames", run.config.task_metadata, other.config.task_metadata),
        ("with classes", run.class_names, other.class_names),
    ):
        if one != another:
            raise ValueError(
                f"ensemble: expected runs {what} as {run.path} does, {short_repr(one)}; received "
                f"{other.path}, {short_repr(another)}."
            )


def _calibrate(command):
    from keras_cnnlstm.models.calibration import facts_as_text
    from keras_cnnlstm.training.run_directory import load_run
    from keras_cnnlstm.training.scoring import calibrate

    run = calibrate(load_run(command.run), confidence_threshold=command.confidence_threshold)
    found = run.calibration
    assert found is not None  # it was fitted just now
    if command.json:
        print(found.to_json(), end="")
    else:
        print(
            f"temperature {found.temperature:.3f}; of {found.validation['num_answers']:,} answers "
            f"to validation data: {facts_as_text(found.validation)}"
        )


def _print_scores(scores, task):
    titles = {
        "natural": "natural test sequences (each digit uniform)",
        "balanced": "balanced test sequences (each class uniform)",
        "clips": "clips that the training has not seen",
        "folder": "all clips of the folder",
        "out_of_fold": "all clips, each by the fold that has not seen it",
    }
    for name, score in scores.items():
        print(f"\n{titles[name]}: {task.summary(score)}")


def _report(command):
    # Each of the report's small models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.evaluation.comparisons import comparison_lines
    from keras_cnnlstm.evaluation.evaluator import evaluate
    from keras_cnnlstm.training.run_directory import load_run

    run = load_run(command.run)
    found = evaluate(
        run,
        num_sequences=command.num_sequences,
        num_mistakes=command.mistakes,
        log=lambda text: print(text, flush=True),
    )["report"]
    _print_scores(found["tests"], run.task)
    if found["does_time_help"]:
        lines = comparison_lines(run.task, found["does_time_help"])
        print("\ndoes time help?", *lines, sep="\n")
        print(found["verdict"])
    print(f"\nwritten to {command.run / 'report.html'}; open it in a browser")


def _predict(command):
    from keras_cnnlstm.export.predictor import format_of, open_predictor
    from keras_cnnlstm.tasks.answers import answer_text, headline

    if format_of(command.model) in ("run", "saved_model"):
        _load_tensorflow()
    predictor = open_predictor(command.model, beam=command.beam)
    clips = [path for path in command.frames if predictor.takes_as_clip(path)]
    if not clips:
        answer = predictor.answer_images(command.frames, invert=command.invert)
        print(json.dumps(answer, indent=2) if command.json else answer_text(answer))
        return
    if len(clips) < len(command.frames):
        other = next(path for path in command.frames if path not in clips)
        raise ValueError(
            f"frames: expected either image files, the frames of one sequence, or folders and "
            f"videos, a clip each; received {clips[0]} and {other}."
        )
    for clip in clips:
        answer = predictor.answer_clip(clip, invert=command.invert)
        if command.json:
            print(json.dumps({"clip": str(clip), **answer}), flush=True)
        elif len(clips) > 1:
            print(f"{clip}: {headline(answer)}", flush=True)
        else:
            print(answer_text(answer))


def _stream(command):
    from keras_cnnlstm.data.clips import iterate_frames
    from keras_cnnlstm.models.streaming import FrameStream
    from keras_cnnlstm.tasks.answers import headline
    from keras_cnnlstm.training.run_directory import load_run

    run = load_run(command.run)
    live = FrameStream(run.model, run.class_names)
    threshold = run.calibration.confidence_threshold if run.calibration else None
    height, width, channels = live.stream.frame_shape
    frames = iterate_frames(
        command.source,
        image_size=(height, width),
        channels=channels,
        invert=command.invert != run.config.invert,
        fit=run.config.fit,
        depth_range=run.config.depth_range,
        every=command.every,
        frames_per_second=run.config.frames_per_second or None,
    )
    for name, frame in frames:
        step = live.push(frame)
        answer = run.task.answer(step.row, confidence_threshold=threshold)
        if command.json:
            print(json.dumps({"step": step.step, "file": name, **answer}), flush=True)
        else:
            print(f"{step.step:5}  {Path(name).name:20}  {headline(answer)}", flush=True)


def _validate(command):
    from keras_cnnlstm.data.clip_checks import check_clips, for_training
    from keras_cnnlstm.utils.environment import progress_line

    report = check_clips(command.data, progress=progress_line(doing="checking"))
    report = for_training(report, groups=command.groups, skip_broken=command.skip_broken)
    print(report.to_json() if command.json else report.text())
    return 1 if report.failures else 0


def _demo(command):
    from keras_cnnlstm.demo.server import serve

    def ready(address):
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)

    serve(command.run, host=command.host, port=command.port, ready=ready)
    print("stopped; what was drawn and dropped is gone")


def _export(command):
    from keras_cnnlstm.export.exporter import export
    from keras_cnnlstm.training.run_directory import load_run

    run = _averaged(load_run(command.run), command)
    done = export(run, command.directory, command.format, version=command.version)
    print(f"written to {done.path}")
    print(json.dumps(done.parity, indent=2))


def _import_torch(command):
    from keras_cnnlstm.training.trainer import import_torch

    options = {field.name: getattr(command.config, field.name) for field in fields(ModelConfig)}
    config = TrainConfig(**options, precision="float32", run_dir=str(command.run))
    run, report = import_torch(command.file, config, ignore=command.ignore)
    print(report)
    print(f"\nwritten to {run.path}\ntry: keras-cnnlstm evaluate {run.path}")


def _benchmark(command):
    # Each of its models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.benchmark.run import benchmark

    measured = benchmark(
        command.sections,
        batch_size=command.batch_size,
        lengths=command.lengths,
        repeats=command.repeats,
        data=command.data,
        output=command.output,
        log=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(measured.to_json() if command.json else f"{measured.text()}\n", end="")
    print(f"written to {command.output}", file=sys.stderr)
