"""One example's answer as people and programs read it, whatever the model answers with.

NumPy only, so that the answer of a small exported file needs neither Keras nor TensorFlow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnnlstm.arguments import as_numbers, check_names, is_number, told
from keras_cnnlstm.vocabulary import join


def as_json(
    output: str,
    answer: np.ndarray,
    class_names: Sequence[str] = (),
    *,
    unsure_below: float | None = None,
) -> dict[str, Any]:
    """An answer as a dict that JSON can hold.

    Args:
        output: name of the model's output: "probabilities", "values", "logits" (of a `crnn`) or
            "words" (of a `describer` that speaks).
        answer: what the model answers for one example: `(num_classes,)`, or `(T, num_classes)`
            for one answer at each step; of words `(L,)`.
        class_names: names of the classes, or words, in the order of their indices.
        unsure_below: probability that a label must have, 0 to 1; by default it is not asked.

    Returns:
        For probabilities `label`, `class_id` and `probabilities` by name, and with `unsure_below`
        whether it is `unsure`; for values `values`; for logits `text`; for words `sentence`; for
        probabilities or values at each step `steps`, a list of these.

    Raises:
        ValueError: if the output is none of these, or the answer does not fit it.

    Example:

    >>> as_json("probabilities", np.array([0.25, 0.75]), ["calm", "storm"])["label"]
    'storm'
    """
    if not isinstance(output, str) or output not in ("probabilities", "values", "logits", "words"):
        raise ValueError(
            "as_json: `output` must be probabilities, values, logits or words; received "
            f"{told(output)}."
        )
    if output == "words":
        return {"sentence": join(answer, class_names)}
    if unsure_below is not None and not is_number(unsure_below, 0, 1):
        raise ValueError(
            f"as_json: `unsure_below` must be 0 to 1, or None; received {told(unsure_below)}."
        )
    answer = _checked(output, as_numbers("as_json: `answer`", answer), class_names)
    if output == "logits":
        return {"text": "".join(class_names[k] for k in read_text(answer))}
    if answer.ndim == 2:
        steps = (as_json(output, s, class_names, unsure_below=unsure_below) for s in answer)
        return {"steps": list(steps)}
    if output == "values":
        return {"values": answer.tolist()}
    best = int(answer.argmax())
    return {
        "label": class_names[best],
        "class_id": best,
        **({} if unsure_below is None else {"unsure": bool(answer[best] < unsure_below)}),
        "probabilities": dict(zip(class_names, answer.tolist(), strict=True)),
    }


def as_text(answer: dict[str, Any]) -> str:
    """What `as_json` returns, as lines of text: the answer first, then how sure it is.

    Example:

    >>> print(as_text({"steps": [{"values": [7.02]}, {"values": [9.98]}]}))
    step 1: 7.02
    step 2: 9.98
    """
    if "steps" in answer:
        steps = enumerate(answer["steps"], start=1)
        return "\n".join(f"step {t}: {headline(step)}" for t, step in steps)
    if "probabilities" not in answer:
        return headline(answer)
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    return "\n".join([headline(answer), *(f"  {p:6.1%}  {name}" for name, p in ranked)])


def headline(answer: dict[str, Any]) -> str:
    """The answer itself, on one line: a label and its probability, numbers, a text or sentence."""
    if "values" in answer:
        return ", ".join(f"{value:.2f}" for value in answer["values"])
    if "text" in answer:
        return answer["text"] or "(no text)"
    if "sentence" in answer:
        return answer["sentence"] or "(no words)"
    unsure = "unsure: " if answer.get("unsure") else ""
    return f"{unsure}{answer['label']} ({answer['probabilities'][answer['label']]:.1%})"


def read_text(logits: np.ndarray) -> list[int]:
    """The characters that a `crnn` names for one image, from 0.

    The likeliest class of each step, repeats merged, blanks (class 0) dropped: the best path of
    Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2.

    Args:
        logits: `(T, num_classes + 1)`.

    Raises:
        ValueError: if `logits` has another shape, or is no numbers.

    Example:

    >>> read_text(np.eye(4)[[0, 2, 2, 0, 2, 3]])
    [1, 1, 2]
    """
    logits = as_numbers("read_text: `logits`", logits)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(
            f"read_text: `logits` must have shape (T, num_classes + 1); received {logits.shape}."
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
            f"as_json: `answer` must have shape {axes} for {output}; received {answer.shape}."
        )
    classes = answer.shape[-1] - (output == "logits")  # the blank has no name
    check_names("as_json: `class_names`", class_names)
    if output != "values" and len(class_names) != classes:
        raise ValueError(
            f"as_json: `class_names` must be {classes} names, one for each class of the answer; "
            f"received {len(class_names)}."
        )
    return answer
