"""One example's answer as people and programs read it, whatever the model answers with.

NumPy only, so that the answer of a small exported file needs neither Keras nor TensorFlow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnnlstm.tasks.vocabulary import join
from keras_cnnlstm.utils.validation import as_numbers, check_choice, check_names, check_number

OUTPUTS = ("probabilities", "label_probabilities", "values", "logits", "tokens")
"""Names of a model's output: of a classifier by one class or by labels, a regression, a `crnn`, a
`captioner`."""


def answer_dict(
    output: str,
    answer: np.ndarray,
    class_names: Sequence[str] = (),
    *,
    confidence_threshold: float | None = None,
) -> dict[str, Any]:
    """An answer as a dict that JSON can hold.

    Args:
        output: name of the model's output, one of `OUTPUTS`.
        answer: what the model answers for one example: `(num_classes,)`, or `(T, num_classes)`
            for an answer at each step; tokens `(L,)`.
        class_names: names of the classes, labels, numbers or tokens, in the order of their indices.
        confidence_threshold: an answer of less probability, 0 to 1, is marked as unsure; `None`
            marks none.

    Returns:
        For probabilities `label`, `class_id` and `probabilities` by name, and with
        `confidence_threshold` also `unsure`; for probabilities of labels `labels`, those over 0.5,
        and `label_probabilities` by name; for values `values`, a list, or by name where they have
        names; for logits `text`; for tokens `caption`; for an answer at each step `steps`, a list
        of these.

    Raises:
        ValueError: if the output is none of these, or the answer does not fit it.

    Example:

    >>> answer_dict("probabilities", np.array([0.25, 0.75]), ["calm", "storm"])["label"]
    'storm'
    """
    check_choice("answer_dict: `output`", output, OUTPUTS)
    if output == "tokens":
        return {"caption": join(answer, class_names)}
    if confidence_threshold is not None:
        check_number("answer_dict: `confidence_threshold`", confidence_threshold, 0, 1)
    answer = _checked(output, as_numbers("answer_dict: `answer`", answer), class_names)
    if output == "logits":
        return {"text": "".join(class_names[k] for k in best_path(answer))}
    if answer.ndim == 2:
        options = {"confidence_threshold": confidence_threshold}
        return {"steps": [answer_dict(output, step, class_names, **options) for step in answer]}
    if output == "values":
        named = len(class_names) == len(answer)
        values = answer.tolist()
        return {"values": dict(zip(class_names, values, strict=True)) if named else values}
    if output == "label_probabilities":
        shares = dict(zip(class_names, answer.tolist(), strict=True))
        labels = [name for name, share in shares.items() if share > 0.5]
        return {"labels": labels, "label_probabilities": shares}
    best = int(answer.argmax())
    unsure = {}
    if confidence_threshold is not None:
        unsure = {"unsure": bool(answer[best] < confidence_threshold)}
    return {
        "label": class_names[best],
        "class_id": best,
        **unsure,
        "probabilities": dict(zip(class_names, answer.tolist(), strict=True)),
    }


def answer_text(answer: dict[str, Any]) -> str:
    """What `answer_dict` returns, as lines of text: the answer first, then its probabilities.

    Example:

    >>> print(answer_text({"steps": [{"values": [7.02]}, {"values": [9.98]}]}))
    step 1: 7.02
    step 2: 9.98
    """
    if "steps" in answer:
        steps = enumerate(answer["steps"], start=1)
        return "\n".join(f"step {t}: {headline(step)}" for t, step in steps)
    shares = answer.get("probabilities") or answer.get("label_probabilities")
    if shares is None:
        return headline(answer)
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return "\n".join([headline(answer), *(f"  {p:6.1%}  {name}" for name, p in ranked)])


def headline(answer: dict[str, Any]) -> str:
    """The answer itself on one line: a label and its probability, numbers, a text or a caption."""
    if "values" in answer:
        values = answer["values"]
        if isinstance(values, dict) and len(values) > 1:
            return ", ".join(f"{name} {value:.2f}" for name, value in values.items())
        numbers = values.values() if isinstance(values, dict) else values
        return ", ".join(f"{value:.2f}" for value in numbers)
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "(no label)"
    if "text" in answer:
        return answer["text"] or "(no text)"
    if "caption" in answer:
        return answer["caption"] or "(no words)"
    unsure = "unsure: " if answer.get("unsure") else ""
    return f"{unsure}{answer['label']} ({answer['probabilities'][answer['label']]:.1%})"


def plain_text(answer: dict[str, Any]) -> str:
    """The answer alone, without probabilities; at each step the labels of all, else the last.

    Example:

    >>> plain_text({"steps": [{"values": [7.02]}, {"values": [9.98]}]})
    '9.98'
    """
    steps = answer.get("steps", [answer])
    if "label" in steps[-1]:
        return " ".join(step["label"] for step in steps)
    return headline(steps[-1])


def best_path(logits: np.ndarray) -> list[int]:
    """The characters that a `crnn` reads in one image, from 0.

    The likeliest class of each step, repeats merged, blanks (class 0) dropped: the best path of
    Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2.

    Args:
        logits: `(T, num_classes + 1)`.

    Example:

    >>> best_path(np.eye(4)[[0, 2, 2, 0, 2, 3]])
    [1, 1, 2]
    """
    logits = as_numbers("best_path: `logits`", logits)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(
            f"best_path: `logits` must have shape (T, num_classes + 1); received {logits.shape}."
        )
    best = logits.argmax(axis=-1)  # (T,)
    new = np.diff(best, prepend=0) != 0
    return (best[new & (best > 0)] - 1).tolist()


def _checked(output, answer, class_names):
    """The answer, if it has the axes of such an output and a name for each class."""
    ranks = (2,) if output == "logits" else (1, 2)
    if answer.ndim not in ranks or not answer.size:
        axes = "(T, num_classes)" if output == "logits" else "(num_classes,) or (T, num_classes)"
        raise ValueError(
            f"answer_dict: `answer` must have shape {axes} for {output}; received {answer.shape}."
        )
    classes = answer.shape[-1] - (output == "logits")  # the blank has no name
    check_names("answer_dict: `class_names`", class_names)
    if output != "values" and len(class_names) != classes:
        raise ValueError(
            f"answer_dict: `class_names` must be {classes} names, one for each class of the "
            f"answer; received {len(class_names)}."
        )
    return answer
