"""The command `predict`: which clips its arguments name, and where the answers go."""

import csv
import glob
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_cnnlstm.cli.commands import Predict
from keras_cnnlstm.data.clips import search_clips
from keras_cnnlstm.data.frames import natural_order
from keras_cnnlstm.data.tables import read_cells
from keras_cnnlstm.export.predictor import Predictor, open_predictor
from keras_cnnlstm.tasks.answers import answer_text, headline
from keras_cnnlstm.utils.environment import progress_line
from keras_cnnlstm.utils.validation import short_repr


def predict(command: Predict) -> None:
    """Answers for the frames of one sequence, or for clips.

    Raises:
        ValueError: if the arguments name no frames and no clips, or both, or one cannot be read.
        FileNotFoundError: if one is missing.
    """
    file = _answer_file(command)
    predictor = open_predictor(command.model, beam=command.beam)
    clips, images = _named(command.frames, predictor)
    if not clips:
        if file:
            raise ValueError(
                f"--{file.form}: expected clips, each with an answer of its own; received image "
                "files, the frames of one sequence. Leave it out, or give their folder."
            )
        answer = predictor.answer_images(images, invert=command.invert)
        print(json.dumps(answer, indent=2) if command.json else answer_text(answer))
    elif images:
        raise ValueError(
            f"frames: expected either image files, the frames of one sequence, or folders and "
            f"videos, a clip each; received {next(iter(clips))} and {images[0]}."
        )
    else:
        _answer_clips(predictor, clips, command, file)


def _named(paths, predictor) -> tuple[dict[str, Path], list[Path]]:
    """The clips that the arguments name, by their names in the answers, and image files."""
    if len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        return {name: paths[0].parent / name for name in read_cells(paths[0], "clip")}, []
    clips: dict[str, Path] = {}
    images: list[Path] = []
    for path in itertools.chain.from_iterable(map(_matches, paths)):
        if path.is_dir():
            clips |= {str(clip): clip for clip in search_clips(path, predictor.takes_as_clip)}
        elif predictor.takes_as_clip(path):
            clips[str(path)] = path
        else:
            images.append(path)
    return clips, images


def _matches(path: Path) -> list[Path]:
    """What a pattern stands for, in natural order; a path that is there is no pattern."""
    if path.exists() or not any(mark in str(path) for mark in "*?["):
        return [path]
    found = [Path(match) for match in glob.glob(str(path), recursive=True)]
    if not found:
        raise FileNotFoundError(f"{path}: expected files or folders that match; found none.")
    return sorted(found, key=lambda match: [natural_order(Path(part)) for part in match.parts])


def _answer_clips(predictor: Predictor, clips, command, file) -> None:
    one = len(clips) == 1 and [*clips.values()] == [*command.frames]
    total = len(clips)
    if file:
        clips = {name: path for name, path in clips.items() if name not in file.names}
        if len(clips) < total:
            print(
                f"{total - len(clips):,} of {total:,} clips are in {file.path} already, and left "
                "out; remove the file to answer them again"
            )
    progress = None
    if file or (sys.stderr.isatty() and not sys.stdout.isatty()):
        progress = progress_line(doing="answers")
    broken = []
    for name, answer in _answers(predictor, clips, command.invert, progress):
        if isinstance(answer, Exception):
            reason = str(answer) if name in str(answer) else f"{name}: {answer}"
            if not command.skip_broken:
                remedy = "" if one else " Leave such clips out with --skip-broken."
                raise ValueError(reason + remedy) from answer
            broken.append(reason)
        elif file:
            file.add(name, answer)
        elif command.json:
            print(json.dumps({"clip": name, **answer}), flush=True)
        else:
            print(answer_text(answer) if one else f"{name}: {headline(answer)}", flush=True)
    if file:
        print(f"written to {file.path}: {len(clips) - len(broken):,} answers")
    if broken:
        print(*(f"left out  {reason}" for reason in broken), sep="\n", file=sys.stderr)
        print(
            f"{len(broken):,} of {len(clips):,} clips cannot be read, and are left out",
            file=sys.stderr,
        )


def _answers(predictor, clips, invert, progress) -> Iterator[tuple[str, Any]]:
    """The names of clips with their answers, or why they have none; counts them."""
    found = predictor.answer_clips([*clips.values()], invert=invert)
    if progress and clips:
        progress(0, len(clips))
    for done, pair in enumerate(zip(clips, found, strict=True), start=1):
        yield pair
        if progress:
            progress(done, len(clips))


class _AnswerFile:
    """A file of answers, a whole line each, that a later command goes on with.

    Args:
        path: the file; made with the first answer.
        form: "csv" or "jsonl".

    Attributes:
        names: the clips that it has.
    """

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        self._columns: list[str] = []
        self._whole: int | None = None  # bytes before a part of a line
        self.names: set[str] = set()
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._whole = content.rfind(b"\n") + 1  # an interruption may have left a part of a line
        text = content[: self._whole].decode(errors="surrogateescape")
        try:
            rows: list[dict] = (
                list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
                if self.form == "csv"
                else [json.loads(line) for line in text.split("\n")[:-1]]
            )
            self.names = {str(row["clip"]) for row in rows}
        except (csv.Error, ValueError, KeyError, TypeError, RecursionError):
            rows = []
        if not rows and content:
            raise ValueError(
                f"--{self.form}: expected a new file, or one with answers of an earlier command; "
                f"{self.path} holds something else. Give another name."
            )
        if rows:
            self._columns = list(rows[0] if self.form == "csv" else _row(rows[0]))

    def add(self, name: str, answer: dict[str, Any]) -> None:
        """Writes the answer to a clip."""
        answer = {"clip": name, **answer}
        row = _row(answer)
        lines = [] if self._columns else [list(row)]
        self._columns = self._columns or list(row)
        if list(row) != self._columns:
            raise ValueError(
                f"--{self.form}: expected answers with {short_repr(self._columns)}, as "
                f"{self.path} has them; received {short_repr(list(row))}. Give another name for "
                "the answers of another model."
            )
        text = io.StringIO(newline="")
        if self.form == "csv":
            csv.writer(text, lineterminator="\n").writerows([*lines, list(row.values())])
        else:
            text.write(f"{json.dumps(answer)}\n")
        if self._whole is not None:
            os.truncate(self.path, self._whole)
            self._whole = None
        with self.path.open("ab") as file:
            file.write(text.getvalue().encode(errors="surrogateescape"))
        self.names.add(name)


def _answer_file(command) -> _AnswerFile | None:
    given = {"csv": command.csv, "jsonl": command.jsonl, "json": command.json or None}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(
            f"--{names[0]} cannot be combined with --{names[1]}: answers go to one place. Leave "
            "one of them out."
        )
    if not names or command.json:
        return None
    if given[names[0]].is_dir() or not given[names[0]].parent.is_dir():
        raise ValueError(
            f"--{names[0]}: expected a file in a folder that is there; received {given[names[0]]}."
        )
    return _AnswerFile(given[names[0]], names[0])


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as columns.

    What has a name of its own has a column of its own, `probabilities:fall`. Lists of names are
    joined by `|`; other lists, such as the answers at each step, are JSON.
    """
    row: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, dict):
            row |= {f"{key}:{name}": number for name, number in value.items()}
        elif key == "values":
            row |= {f"value:{place}": number for place, number in enumerate(value, start=1)}
        elif isinstance(value, list):
            names = value and all(isinstance(item, str) for item in value)
            row[key] = "|".join(value) if names else json.dumps(value)
        else:
            row[key] = value
    return row
