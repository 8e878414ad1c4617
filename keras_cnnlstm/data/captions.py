"""Captions of clips on disk: a table of captions beside them, or the names of their classes.

    ROOT/captions.csv        columns clip ("class/clip", videos with or without ending) and caption
    ROOT/class/clip/...      as in `clips`

Without a table the caption is the name of the class, with spaces for underscores.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from keras_cnnlstm.data.clips import Clip, checked_clips, find_clips
from keras_cnnlstm.data.splits import read_column
from keras_cnnlstm.tasks.captions import ClipCaption
from keras_cnnlstm.tasks.vocabulary import LONGEST, Vocabulary, split
from keras_cnnlstm.utils.validation import as_path, check_instance, short_repr

TABLE = "captions.csv"
"""The file in the folder over the classes."""


def clip_captions(root: str | Path, clips: Sequence[Clip] | None = None) -> dict[str, str]:
    """The caption of each clip in a folder, by the clip's name.

    Args:
        root: the folder over the classes, as `clips.find_clips` takes it.
        clips: all clips in it, if they are known; by default those of `find_clips`.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it.
        ValueError: if there is a table that cannot be read, lacks a clip, or names one that is not
            there; or a caption has no tokens, too many, or control characters.
    """
    table = as_path("clip_captions: `root`", root) / TABLE
    clips = find_clips(root) if clips is None else clips
    if table.exists():
        captions = read_column(table, "caption", clips)
    else:
        captions = {clip.name: clip.class_name.replace("_", " ") for clip in clips}
    captions = {name: " ".join(caption.split()) for name, caption in captions.items()}
    for name, caption in captions.items():
        odd = {unicodedata.category(character) for character in caption} & {"Cc", "Cs"}
        if odd or not 0 < len(split(caption)) < LONGEST:
            raise ValueError(
                f"{table if table.exists() else root}: expected for each clip a caption of 1 to "
                f"{LONGEST - 1} tokens, in UTF-8; received {short_repr(caption)} for "
                f"{short_repr(name)}. Correct it."
            )
    return captions


def captioned(clips: Iterable[Clip], captions: Mapping[str, str]) -> list[Clip]:
    """The clips with their captions in place of their classes.

    Raises:
        ValueError: if there is no caption for a clip.
    """
    clips = checked_clips("captioned", clips)
    check_instance("captioned: `captions`", captions, Mapping, "captions by the names of clips")
    if missing := [clip.name for clip in clips if not isinstance(captions.get(clip.name), str)]:
        raise ValueError(
            f"captioned: `captions` must have a text for each clip; it has none for {missing[0]!r}"
            f" and {len(missing) - 1} others. Take the clip_captions of their folder."
        )
    return [replace(clip, class_name=captions[clip.name]) for clip in clips]


def caption_task(
    clips: Iterable[Clip], *, length: int, vocabulary: Vocabulary | None = None
) -> ClipCaption:
    """The task of captioned clips.

    Args:
        clips: the clips, with captions as classes.
        length: T, frames of the longest clip.
        vocabulary: the known tokens; by default those of these captions.

    Raises:
        ValueError: if there are not two different captions.
    """
    clips = checked_clips("caption_task", clips)
    captions = tuple(sorted({clip.class_name for clip in clips}))
    if len(captions) < 2:
        raise ValueError(
            "captions: expected two different captions or more; received "
            f"{short_repr(captions)}. Write them into {TABLE}, in the folder of clips."
        )
    known = Vocabulary.of(captions) if vocabulary is None else vocabulary
    return ClipCaption(captions, length, vocabulary=known)
