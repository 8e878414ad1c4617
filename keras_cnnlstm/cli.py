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

from keras_cnnlstm.commands import (
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
    one_line,
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
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("KERAS_CNNLSTM_DEBUG"):
            traceback.print_exc()
        print(f"keras-cnnlstm: {one_line(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt as stop:
        print(f"keras-cnnlstm: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 143 if str(stop) else 130  # by SIGTERM, with a message, or from the keyboard


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
    from keras_cnnlstm.scores import summary
    from keras_cnnlstm.training import train

    names = [field.name for field in fields(TrainConfig)]
    config = TrainConfig(**{name: getattr(command, name) for name in names})
    if command.resume:
        config = _options_to_resume(command.resume, config)
    run = train(config, resume=bool(command.resume))
    if not run.metrics:
        print(f"\nthis worker is done; the chief writes {run.path}")
        return
    _print_training(run.metrics["training"])
    _print_scores(run.metrics["test"], summary)
    print(
        f"\nwritten to {run.path}\n"
        f"try: keras-cnnlstm predict {run.path} {run.path / 'example'}/*.png\n"
        f"look: keras-cnnlstm report {run.path}"
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
    print(", all members together; by itself each")
    for member in facts["members"]:
        if "accuracy" in member:
            told = f"accuracy {member['accuracy']:.2%}"
        else:
            told = f"root-mean-square error {member['rmse']:.3f}"
        print(f"  {member['run']}  {told}, {member['encoder']}, {member['seconds']:.0f} s")


def _options_to_resume(run, given):
    """The options of a run, and those that were given on the command line."""
    from keras_cnnlstm.runs import load_config

    defaults, stored = TrainConfig(), load_config(Path(run))
    changes = {
        name: value
        for name, value in vars(given).items()
        if value != getattr(defaults, name) and name != "run_dir"
    }
    return replace(stored, **changes, run_dir=run)


def _evaluate(command):
    from keras_cnnlstm.evaluation import score
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.scores import summary
    from keras_cnnlstm.sources import batches_to_score

    run = _averaged(load_run(command.run), command)
    tests, task = batches_to_score(
        run,
        dataset=command.dataset,
        data_dir=command.data_dir,
        data=command.data,
        num_sequences=command.num_sequences,
    )
    scores = score(run.model, tests, task)
    if command.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores, summary)


def _averaged(run, command):
    """The run with the model that averages over the ensemble, and over so many views."""
    from keras_cnnlstm.ensembles import average_models
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.views import average_views

    if command.ensemble:
        others = [load_run(path) for path in command.ensemble]
        for other in others:
            _check_same_question(run, other)
        run = replace(run, model=average_models([run.model, *(other.model for other in others)]))
    if command.views == 1:
        return run
    return replace(run, model=average_views(run.model, command.views))


def _check_same_question(run, other):
    from keras_cnnlstm.arguments import told

    for what, one, another in (
        ("that read frames", run.config.reading, other.config.reading),
        ("with classes", run.class_names, other.class_names),
    ):
        if one != another:
            raise ValueError(
                f"ensemble: expected runs {what} as {run.path} does, {told(one)}; received "
                f"{other.path}, {told(another)}."
            )


def _calibrate(command):
    from keras_cnnlstm.calibration import facts_as_text
    from keras_cnnlstm.evaluation import calibrate
    from keras_cnnlstm.runs import load_run

    found = calibrate(load_run(command.run), unsure_below=command.unsure_below).calibration
    if command.json:
        print(found.to_json(), end="")
    else:
        print(
            f"temperature {found.temperature:.3f}; of {found.validation['num_answers']:,} answers "
            f"to validation data: {facts_as_text(found.validation)}"
        )


def _print_scores(scores, summary):
    titles = {
        "natural": "natural test sequences (each digit uniform)",
        "balanced": "balanced test sequences (each class uniform)",
        "clips": "clips that the training has not seen",
        "folder": "all clips of the folder",
    }
    for name, score in scores.items():
        print(f"\n{titles[name]}: {summary(score)}")


def _report(command):
    # Each of the report's small models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.evaluation import evaluate
    from keras_cnnlstm.report_facts import Comparison, comparison_lines
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.scores import summary

    found = evaluate(
        load_run(command.run),
        num_sequences=command.num_sequences,
        num_mistakes=command.mistakes,
        say=lambda text: print(text, flush=True),
    )["report"]
    _print_scores(found["tests"], summary)
    if found["does_time_help"]:
        rows = [Comparison(row["title"], "", row) for row in found["does_time_help"]]
        print("\ndoes time help?", *comparison_lines(rows), sep="\n")
        print(found["verdict"])
    print(f"\nwritten to {command.run / 'report.html'}; open it in a browser")


def _predict(command):
    from keras_cnnlstm.answers import as_text, headline
    from keras_cnnlstm.predictors import kind_of, open_predictor

    if kind_of(command.model) in ("run", "saved_model"):
        _load_tensorflow()
    predictor = open_predictor(command.model, beam=command.beam)
    clips = [path for path in command.frames if predictor.takes_as_clip(path)]
    if not clips:
        told = predictor.answer_images(command.frames, invert=command.invert)
        print(json.dumps(told, indent=2) if command.json else as_text(told))
        return
    if len(clips) < len(command.frames):
        other = next(path for path in command.frames if path not in clips)
        raise ValueError(
            f"frames: expected either image files, the frames of one sequence, or folders and "
            f"videos, a clip each; received {clips[0]} and {other}."
        )
    for clip in clips:
        told = predictor.answer_clip(clip, invert=command.invert)
        if command.json:
            print(json.dumps({"clip": str(clip), **told}), flush=True)
        elif len(clips) > 1:
            print(f"{clip}: {headline(told)}", flush=True)
        else:
            print(as_text(told))


def _stream(command):
    from keras_cnnlstm.answers import as_json, headline
    from keras_cnnlstm.clips import iterate_frames
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.streaming import FrameStream

    run = load_run(command.run)
    live = FrameStream(run.model, run.class_names)
    height, width, channels = live.stream.frame_shape
    frames = iterate_frames(
        command.source,
        image_size=(height, width),
        channels=channels,
        invert=command.invert != run.config.invert,
        every=command.every,
    )
    for name, frame in frames:
        answer = live.push(frame)
        output = "probabilities" if answer.values is None else "values"
        unsure = run.reading.get("unsure_below")
        told = as_json(output, getattr(answer, output), run.class_names, unsure_below=unsure)
        if command.json:
            print(json.dumps({"step": answer.step, "file": name, **told}), flush=True)
        else:
            print(f"{answer.step:5}  {Path(name).name:20}  {headline(told)}", flush=True)


def _validate(command):
    from keras_cnnlstm.clip_checks import check_clips
    from keras_cnnlstm.leakage import progress_line

    report = check_clips(command.data, progress=progress_line())
    print(report.to_json() if command.json else report.text())
    return 1 if report.failures else 0


def _demo(command):
    from keras_cnnlstm.demo import serve

    def ready(address):
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)

    serve(command.run, host=command.host, port=command.port, ready=ready)
    print("stopped; what was drawn and dropped is gone")


def _export(command):
    from keras_cnnlstm.export import export
    from keras_cnnlstm.runs import load_run

    run = _averaged(load_run(command.run), command)
    done = export(run, command.directory, command.format, version=command.version)
    print(f"written to {done.path}")
    print(json.dumps(done.parity, indent=2))


def _import_torch(command):
    from keras_cnnlstm.training import import_torch

    options = {field.name: getattr(command, field.name) for field in fields(ModelConfig)}
    config = TrainConfig(**options, precision="float32", run_dir=str(command.run))
    run, report = import_torch(command.file, config)
    print(report)
    print(f"\nwritten to {run.path}\ntry: keras-cnnlstm evaluate {run.path}")


def _benchmark(command):
    # Each of its models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.benchmark import benchmark

    measured = benchmark(
        command.sections,
        batch_size=command.batch_size,
        lengths=command.lengths,
        repeats=command.repeats,
        output=command.output,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(measured.to_json() if command.json else f"{measured.text()}\n", end="")
    print(f"written to {command.output}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
