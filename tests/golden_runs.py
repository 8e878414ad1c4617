"""Eight small runs at fixed seeds, and what came of them to the last bit.

Proof that a change of the code, such as a move of modules, changes no number:

    python golden_runs.py write before.json       # with the code as it was
    python golden_runs.py compare before.json     # with the code as it is; 1 if a number differs

Kept of each run are the rows of `history.csv`, the test scores, the temperature of a classifier,
a hash of each array of weights (of an ensemble's members, too) and, of clips, which of them are for
training, validation and test. Names of layers, the form of the model file and times are left out:
these may change.

Each run is trained in a process of its own, so that it ends with the same numbers whichever runs
are asked for, on the CPU in two threads. Another processor, or another version of TensorFlow or
NumPy, may round otherwise, so write and compare on one machine; which one it was is in the file.

This is no test that pytest collects, since its numbers hold for one machine alone.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

_EACH = {
    "epochs": 2, "steps_per_epoch": 12, "batch_size": 16, "learning_rate": 0.004,
    "validation_sequences": 64, "test_sequences": 200,
    "precision": "float32", "strategy": "one-device",
}  # fmt: skip

RUNS = {
    "trend": {"seed": 1},
    "digits": {
        "task": "digits", "encoder": "small_cnn", "lstm_units": (32,), "dropout": 0.2,
        "augmentation": {"affine": 1.0, "elastic": 0.5, "erasing": 0.5}, "seed": 2,
    },
    "running_sum": {
        "task": "running_sum", "length": 5, "min_length": 1, "encoder": "strided_cnn",
        "encoder_filters": (8, 16, 16), "lstm_units": (32,), "seed": 3,
    },
    "scan_lstm": {
        "model": "scan_lstm", "lstm_units": (32, 32), "dropout": 0.2, "bidirectional": True,
        "seed": 4,
    },
    "crnn": {
        "model": "crnn", "length": 2, "min_length": 1, "lstm_units": (64,),
        "steps_per_epoch": 150, "augmentation": "none", "seed": 5,
    },
    "captioner": {
        "model": "captioner", "length": 3, "encoder": "small_cnn", "lstm_units": (32,),
        "dropout": 0.2, "steps_per_epoch": 40, "seed": 6,
    },
    "clips": {
        "data": "clips", "groups": "^(.+?)_", "image_size": (20, 20), "color_mode": "grayscale",
        "length": 6, "encoder": "residual_cnn", "encoder_filters": (8, 8, 16), "lstm_units": (16,),
        "augmentation": "light", "flip": True, "batch_size": 8, "steps_per_epoch": None,
        "epochs": 6, "seed": 7,
    },
    "members": {
        "ensemble": ("small_cnn", "paired_cnn"), "lstm_units": (16,),
        "ema": 0.9, "seed": 8,
    },
}  # fmt: skip
"""The options of each run, on top of those that all of them have.

`data` names a folder beside the run, which `write_small_clips` fills.
"""

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTRAOP_THREADS": "2",  # into how many parts sums are cut, else as many as cores
}
_LIMIT = 900  # seconds for one run, which takes about 20
_SHOWN = 5  # differences of one fact


# --- all that knows where something lies in the package -----------------------------------------


def train_run(options: dict) -> None:
    """Trains one run."""
    from keras_cnnlstm import TrainConfig, train

    train(TrainConfig(**options))


def package_folder() -> str:
    """Where the package lies that is tested."""
    import keras_cnnlstm

    return str(Path(keras_cnnlstm.__file__).parent)


def write_small_clips(folder: Path) -> None:
    """Writes 48 clips, PNG folders of 5 to 9 frames: six digits in eight kinds of motion."""
    from keras_cnnlstm import load_digits
    from keras_cnnlstm.data import moving_digits, write_clips

    images = load_digits().train
    clips = moving_digits(images, 6, canvas=36, min_frames=5, max_frames=9, seed=0)
    write_clips(folder, clips)


# --- one run -------------------------------------------------------------------------------------


def facts_of_run(name: str, folder: Path) -> dict:
    """Trains a run in an empty folder; returns what is kept of it, ready for JSON."""
    options = {**_EACH, **RUNS[name], "run_dir": str(folder / "run")}
    if "data" in options:
        options["data"] = str(folder / options["data"])
        write_small_clips(Path(options["data"]))
    train_run(options)
    return {"facts": read_facts(folder / "run"), "machine": machine_facts()}


def read_facts(run: Path) -> dict:
    """What is kept of a run directory, and of the members in it, by the names of their files."""
    facts: dict = {}
    for folder in [run, *sorted(run.glob("members/*"))]:
        prefix = "" if folder == run else f"{folder.relative_to(run).as_posix()}/"
        if (folder / "history.csv").exists():  # an ensemble has none of its own
            facts[f"{prefix}history.csv"] = rows_without_times(folder / "history.csv")
        facts[f"{prefix}test"] = _read_json(folder / "metrics.json")["test"]
        if (folder / "calibration.json").exists():  # classifiers have it
            temperature = _read_json(folder / "calibration.json")["temperature"]
            facts[f"{prefix}temperature"] = temperature
        facts[f"{prefix}weights"] = weight_hashes(folder / "model.keras")
        if (folder / "split.csv").exists():
            facts[f"{prefix}split.csv"] = _read_text(folder / "split.csv").splitlines()
    return facts


def rows_without_times(file: Path) -> list[str]:
    """The rows of a CSV file as text, without the columns that tell times."""
    head, *rows = csv.reader(io.StringIO(_read_text(file)))
    kept = [i for i, name in enumerate(head) if "second" not in name and "time" not in name]
    return [",".join(row[i] for i in kept) for row in (head, *rows)]


def weight_hashes(file: Path) -> list[str]:
    """A hash of each array in a `.keras` file, of its type, shape and bytes; sorted, no names.

    Read without Keras, so that no class of the package needs to be found.
    """
    import h5py
    import numpy as np

    hashes = []

    def add(_, node):
        if isinstance(node, h5py.Dataset):
            array = np.ascontiguousarray(node[()])
            told = f"{array.dtype.str} {node.shape} ".encode()
            hashes.append(hashlib.sha256(told + array.tobytes()).hexdigest())

    with zipfile.ZipFile(file) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as weights:
        weights.visititems(add)
    if not hashes:
        raise ValueError(f"{file}: expected weights; found none.")
    return sorted(hashes)


def machine_facts() -> dict:
    """What the last bits of a number may depend on, besides the code."""
    packages = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "pillow")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _read_text(file):
    return file.read_text(encoding="utf-8")


def _read_json(file):
    return json.loads(_read_text(file))


# --- all of them ---------------------------------------------------------------------------------


def run_apart(name: str) -> tuple[dict | None, float]:
    """Trains a run in a fresh process; what is kept of it, `None` if it failed, and the seconds."""
    environment = {**os.environ, **_ENVIRONMENT}
    environment.pop("TF_CONFIG", None)  # which would name other machines to train with
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        out = Path(folder) / "facts.json"
        command = [sys.executable, str(Path(__file__).resolve()), "one", str(out), "--only", name]
        try:
            done = subprocess.run(
                command, env=environment, timeout=_LIMIT, text=True, errors="replace",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{name}: not done after {_LIMIT} s", flush=True)
            return None, time.perf_counter() - start
        seconds = time.perf_counter() - start
        if done.returncode or not out.exists():
            print(f"{name}: failed with exit status {done.returncode}:\n{done.stdout[-4000:]}")
            return None, seconds
        return _read_json(out), seconds


def write(file: Path, names: list[str]) -> bool:
    """Writes the facts of runs; other runs that are in the file already stay there."""
    kept = _read_json(file) if file.exists() else {}
    good = True
    for name in names:
        found, seconds = run_apart(name)
        if found is None:
            good = False
            continue
        kept[name] = found
        print(f"{name:<12} {seconds:5.1f} s  {_in_short(found['facts'])}", flush=True)
        ordered = {name: kept[name] for name in (*RUNS, *kept) if name in kept}
        partial = file.with_name(f".{file.name}")
        partial.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    return good


def compare(file: Path, names: list[str]) -> bool:
    """Trains the runs again and tells which facts differ from those in the file."""
    before, differing = _read_json(file), []
    for name in names:
        if name not in before:
            print(f"{name}: not in {file}", flush=True)
            differing.append(name)
            continue
        now, seconds = run_apart(name)
        if now is None:
            differing.append(name)
            continue
        print(f"{name}  ({seconds:.1f} s)")
        for line in differences(before[name]["machine"], now["machine"]):
            print(f"  note: another machine, {line}")
        for fact in dict.fromkeys([*before[name]["facts"], *now["facts"]]):
            lines = differences(*(facts["facts"].get(fact) for facts in (before[name], now)))
            if fact.endswith("weights") and lines:
                lines = _weights_apart(before[name]["facts"].get(fact), now["facts"].get(fact))
            print(f"  {fact:<24} {'DIFFERS' if lines else 'equal'}")
            for line in lines[:_SHOWN]:
                print(f"    {line}")
            if len(lines) > _SHOWN:
                print(f"    and {len(lines) - _SHOWN} more")
            if lines and name not in differing:
                differing.append(name)
        sys.stdout.flush()
    told = f"differ: {', '.join(differing)}" if differing else "all equal"
    print(f"\n{len(names)} runs, {told}")
    return not differing


def differences(before, now) -> list[str]:
    """Where two values of JSON differ, a line each: the place, what was there and what is now."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{place or 'all of it'}: {old.get(place, 'nothing')} -> {new.get(place, 'nothing')}"
        for place in dict.fromkeys([*old, *new])
        if old.get(place) != new.get(place)
    ]


def _leaves(value, place=""):
    """Each number or text in a value of JSON, as JSON text (so that NaN equals NaN)."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from _leaves(part, f"{place}/{key}")
    elif value is not None or place:
        yield place, json.dumps(value)


def _weights_apart(before, now):
    """How many of the hashes are not there on the other side."""
    old, new = Counter(before or ()), Counter(now or ())
    return [
        f"{(old - new).total()} of {old.total()} arrays are gone, "
        f"{(new - old).total()} of {new.total()} are new"
    ]


def _in_short(facts):
    return ", ".join(f"{name} {sum(1 for _ in _leaves(fact))}" for name, fact in facts.items())


def main() -> int:
    """The command line; 1 if a run failed or a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    # "one" is how `run_apart` calls this file for one run.
    parser.add_argument("action", choices=("write", "compare", "one"), metavar="write|compare")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, metavar="NAME", default=list(RUNS),
        help=f"these runs alone, of {', '.join(RUNS)}",
    )  # fmt: skip
    chosen = parser.parse_args()
    if chosen.action == "one":
        (name,) = chosen.only
        facts = facts_of_run(name, chosen.file.parent)
        chosen.file.write_text(json.dumps(facts), encoding="utf-8")
        return 0
    if chosen.action == "compare" and not chosen.file.is_file():
        parser.error(f"{chosen.file}: there is no such file; make it with write")
    print(f"code: {package_folder()}", flush=True)  # those of other code would prove nothing
    act = write if chosen.action == "write" else compare
    return 0 if act(chosen.file, chosen.only) else 1


if __name__ == "__main__":
    sys.exit(main())
