"""Linear models of one vector for each sequence: what a bag of frames answers with."""

import warnings

import numpy as np

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the softmax regression: C of scikit-learn
_HELD_OUT = 5  # one training sequence in five chooses the strength


def softmax_regression(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, num_classes: int
) -> np.ndarray:
    """Class probabilities `(M, num_classes)`, the regression's strength chosen on held-out rows.

    Args:
        x: `(N, F)`, the vectors to fit to.
        y: `(N,)` integers, their classes.
        x_test: `(M, F)`.
        num_classes: classes that there are, also of those that `y` lacks.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def probabilities(fit, rows):
        found = np.zeros((len(rows), num_classes))
        found[:, fit.classes_] = fit.predict_proba(rows)
        return found

    def likelihood(fit, rows, classes):
        return np.log(probabilities(fit, rows)[np.arange(len(rows)), classes] + 1e-9).mean()

    held_out = np.arange(len(x)) % _HELD_OUT == 0
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)),
        {"logisticregression__C": _STRENGTHS},
        scoring=likelihood,
        cv=[(np.flatnonzero(~held_out), np.flatnonzero(held_out))],
        error_score="raise",
    )
    with warnings.catch_warnings():
        # A fit that stops early is a smoother one, and held-out rows choose among them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probabilities(search.fit(x, y), x_test)


def ridge_regression(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Numbers `(M, K)` for `x_test (M, F)`, fitted to `x (N, F)` and `y (N, K)`."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7)))
    return pipeline.fit(x, y).predict(x_test)
