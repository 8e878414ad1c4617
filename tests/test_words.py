"""The package and its guide use plain English, and the field's own words as names."""

import ast
import re
from pathlib import Path

import keras_cnnlstm

PACKAGE = Path(keras_cnnlstm.__file__).parent
ROOT = PACKAGE.parent
TEXTS = [ROOT / "README.md", *ROOT.glob("notebooks/guide/*.md"), *PACKAGE.rglob("*.py*")]

AVOIDED = [
    "told", "tells of", "so many", "anew", "for want of", "for ever", "who", "whole numbers?",
    "by itself", "as many as of", "a integer", "in the midst of", "goes on only",
]  # fmt: skip
"""Phrases that our English avoids; a space stands for any white space."""

REPLACED = {
    "augmentation: affine, elastic, random erasing": "distortions redrawn bent erased untouched",
    "captioner, caption, tokens": "describer sentence words",
    "encoder from a run; test-time augmentation": "readers reader_views views",
    "supervision": "so_far reorder regroup lesson prefixes",
    "frame_encoder, gradcam, signatures, writers, artifact, prefetch, (part of videos)":
        "framewise class_maps endpoints converters artefacts read_ahead containers",
    "mask, answer": "counts as_json",
    "repr, log, integer, type": "told say whole_number kind",
    "confidence_threshold, early_fusion_cnn": "unsure_below channel_cnn",
}  # fmt: skip
"""Names that others replace, by what replaces them."""


def phrases(text):
    for phrase in AVOIDED:
        words = r"\s+".join(phrase.split())
        for found in re.finditer(rf"\b{words}\b", text, re.IGNORECASE):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split())


def names(tree):
    """Public functions, classes, methods, arguments and fields, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = node.args
            for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs:
                yield argument.lineno, argument.arg
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.lineno, field.target.id


def test_texts_are_plain_english():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase}"
        for path in TEXTS
        for line, phrase in phrases(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["avoid these phrases", *sorted(found)])


def test_names_are_the_words_of_the_field():
    better = {old: new for new, olds in REPLACED.items() for old in olds.split()}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}; take {better[name]}"
        for path in PACKAGE.rglob("*.py")
        for line, name in [
            (1, path.stem),
            *names(ast.parse(path.read_text(encoding="utf-8"))),
        ]
        if name in better
    ]
    assert not found, "\n".join(["rename these", *sorted(found)])
