"""The command `keras-cnnlstm`: delegates and prints. Imports the heavy parts when needed."""

import io
import json
import logging
import os
import re
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
from keras_cnnlstm.utils.validation import check_integer, short_repr

_TF = "tensorflow"  # as KERAS_BACKEND names it
_LONGEST = 2000  # characters of a complaint


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
    _repair_streams()
    try:
        code = _exit_code(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the output has had enough of it
        code = 1
    except OSError as error:  # the disk is full, say
        _complain(error)
        code = 2
    for stream in (sys.stdout, sys.stderr):  # or Python tries again to write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _exit_code(arguments):
    try:
        return _run(parse(arguments)) or 0
    except SystemExit as stop:  # --help is printed
        return stop.code or 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if os.environ.get("KERAS_CNNLSTM_DEBUG"):
            traceback.print_exc()
        _complain(error)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "interrupted")
        return getattr(stop, "exit_code", 130)


def _repair_streams():
    """Opens the standard streams that are closed, or the next files would take their numbers.

    Characters that a stream cannot encode are escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - until the process ends
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")


def _complain(text):
    """Prints one line of printable characters on stderr; what is very long loses its middle."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    line = re.sub(r"(\S{150})\S{100,}(\S{50})", r"\1...\2", line)
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 500]} ... {line[-400:]}"
    print(f"keras-cnnlstm: {line}", file=sys.stderr)


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
    from keras_cnnlstm.training.scoring import batches_to_score, score

    run = _averaged(command)
    options = {name: getattr(command, name) for name in ("data", "labels", "num_sequences")}
    tests, task, groups = batches_to_score(run, **options)
    scores = score(run.model, tests, task, groups)
    if command.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores, task)


def _averaged(command):
    """The run with the model that averages over the ensemble, and over copies of the frames."""
    from keras_cnnlstm.layers.averaging import MOST_COPIES
    from keras_cnnlstm.models.ensembles import average_models, with_test_time_augmentation
    from keras_cnnlstm.training.run_directory import load_run

    check_integer("tta", command.tta, 1, MOST_COPIES)
    run = load_run(command.run)
    if command.ensemble:
        others = [load_run(path) for path in command.ensemble]
        for other in others:
            _check_same_question(run, other)
        run = replace(run, model=average_models([run.model, *(other.model for other in others)]))
    if command.tta == 1:
        return run
    return replace(run, model=with_test_time_augmentation(run.model, command.tta))


def _check_same_question(run, other):
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
    from keras_cnnlstm.cli.predict import predict
    from keras_cnnlstm.export.predictor import format_of

    if format_of(command.model) in ("run", "saved_model"):
        _load_tensorflow()
    predict(command)


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
    from keras_cnnlstm.data.labels import table_task
    from keras_cnnlstm.utils.environment import progress_line

    task = table_task(command.labels) if command.labels else "clip"
    progress = progress_line(doing="checking")
    of_table = {"labels": command.labels, "frame_numbers": command.frame_numbers}
    report = check_clips(command.data, **of_table, progress=progress)
    options = {"groups": command.groups, "skip_broken": command.skip_broken, "task": task}
    report = for_training(report, **options)
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

    run = _averaged(command)
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
