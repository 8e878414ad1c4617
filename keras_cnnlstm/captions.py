"""What is said of clips on disk: a table of sentences beside them, or the names of their classes.

    ROOT/captions.csv        columns clip ("class/clip", of videos with or without ending), sentence
    ROOT/class/clip/...      as in `clips`

Without a table the class is what is said, its underscores read as spaces.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from keras_cnnlstm.arguments import as_path, check_kind, told
from keras_cnnlstm.clips import Clip, checked_clips, find_clips
from keras_cnnlstm.sentences import Captions
from keras_cnnlstm.splits import listed
from keras_cnnlstm.vocabulary import LONGEST, Vocabulary, split

TABLE = "captions.csv"
"""The file in the folder over the classes."""


def clip_sentences(root: str | Path) -> dict[str, str]:
    """The sentence of each clip in a folder, by the clip's name.

    Args:
        root: the folder over the classes, as `clips.find_clips` takes it.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it.
        ValueError: if there is a table that cannot be read, lacks a clip, or names one that is not
            there; or a sentence has no words, too many, or control characters.
    """
    clips, table = find_clips(root), as_path("clip_sentences: `root`", root) / TABLE
    if table.exists():
        said = listed(clips, table, "sentence")
    else:
        said = {clip.name: clip.class_name.replace("_", " ") for clip in clips}
    sentences = {name: " ".join(sentence.split()) for name, sentence in said.items()}
    _check_sentences(table if table.exists() else root, sentences)
    return sentences


def _check_sentences(where, sentences):
    """Refuses what nobody can learn to say, or write into a file."""
    for name, sentence in sentences.items():
        odd = {unicodedata.category(character) for character in sentence} & {"Cc", "Cs"}
        if odd or not 0 < len(split(sentence)) < LONGEST:
            raise ValueError(
                f"{where}: expected for each clip a sentence of 1 to {LONGEST - 1} words and "
                f"punctuation marks, in UTF-8; received {told(sentence)} for {told(name)}. Mend it."
            )


def captioned(clips: Iterable[Clip], sentences: Mapping[str, str]) -> list[Clip]:
    """The clips, each with its sentence in place of its class.

    Raises:
        ValueError: if there is no sentence for a clip.
    """
    clips = checked_clips("captioned", clips)
    check_kind("captioned: `sentences`", sentences, Mapping, "sentences by the names of clips")
    if missing := [clip.name for clip in clips if not isinstance(sentences.get(clip.name), str)]:
        raise ValueError(
            f"captioned: `sentences` must have a text for each clip; it has none for {missing[0]!r}"
            f" and {len(missing) - 1} others. Take clip_sentences of the folder they lie in."
        )
    return [replace(clip, class_name=sentences[clip.name]) for clip in clips]


def caption_task(
    clips: Iterable[Clip], *, length: int, vocabulary: Vocabulary | None = None
) -> Captions:
    """What is asked of captioned clips.

    Args:
        clips: the clips, whose classes are sentences.
        length: T, frames of the longest.
        vocabulary: the words that are known; by default all of these sentences.

    Raises:
        ValueError: if there are not two different sentences.
    """
    clips = checked_clips("caption_task", clips)
    sentences = tuple(sorted({clip.class_name for clip in clips}))
    if len(sentences) < 2:
        raise ValueError(
            "captions: expected two different sentences or more; received "
            f"{told(sentences)}. Write them into {TABLE}, in the folder of clips."
        )
    known = Vocabulary.of(sentences) if vocabulary is None else vocabulary
    return Captions(sentences, length, vocabulary=known)
