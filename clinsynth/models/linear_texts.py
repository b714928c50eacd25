"""Logistic regression on features that are not trained: mean token embeddings of a pretrained encoder, or TF-IDF.

Both take seconds to minutes where an encoder is fine-tuned for an hour, and are what a larger classifier must beat.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from clinsynth.models.classifiers import Record, macro_f1
from clinsynth.models.text_classifiers import READ_AT_ONCE, Tokens, load_tokenizer
from clinsynth.models.text_encoders import default_source
from clinsynth.models.weights import MINILM, best_device, explained_where_unloadable

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths C of the penalty, among which validation chooses."""
MOST_STEPS = 1000
WINDOW, MOST_WINDOWS = 256, 4


@dataclass(frozen=True)
class Linear:
    """A fitted classifier: weights (classes, d) and biases (classes,), float64."""

    weights: np.ndarray
    biases: np.ndarray

    def probabilities(self, features: Any) -> np.ndarray:
        """Of features (n, d), dense or sparse: float32 (n, classes)."""
        rows: np.ndarray = softmax(np.asarray(features @ self.weights.T) + self.biases, axis=1).astype(np.float32)
        return rows


def fit_linear(
    train: Any, labels: np.ndarray, classes: int, validation: Any, known: np.ndarray, weighted: bool
) -> tuple[Linear, list[Record]]:
    """The logistic regression whose C has the best macro-F1 on validation, and a record for each C.

    Args:
        train, validation: features (n, d), dense or sparse.
        labels, known: ints (n,) of them; a class without a train row is never predicted.
        weighted: weight the classes by their inverse frequency.
    """
    records: list[Record] = []
    fits: list[Linear] = []
    for penalty in PENALTIES:
        fits.append(fit_one(train, labels, classes, penalty, weighted))
        score = macro_f1(known, fits[-1].probabilities(validation).argmax(1), classes)
        records.append({"C": penalty, "validation_macro_f1": score})
    return fits[int(np.argmax([record["validation_macro_f1"] for record in records]))], records


def fit_one(train: Any, labels: np.ndarray, classes: int, penalty: float, weighted: bool) -> Linear:
    """The logistic regression of one C."""
    there = np.unique(labels)
    weights, biases = np.zeros((classes, train.shape[1])), np.full(classes, -np.inf)
    if len(there) == 1:
        biases[there] = 0
        return Linear(weights, biases)
    model = LogisticRegression(C=penalty, max_iter=MOST_STEPS, class_weight="balanced" if weighted else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest penalty; validation sees what came of it
        model.fit(train, labels)
    if len(there) == 2:  # one row of weights: those of the second class
        weights[there[1]], biases[there] = model.coef_[0], (0, model.intercept_[0])
    else:
        weights[there], biases[there] = model.coef_, model.intercept_
    return Linear(weights, biases)


def tfidf(texts: Sequence[str]) -> TfidfVectorizer:
    """TF-IDF of the words and pairs of words of `texts`, with logarithmic counts, fitted on them."""
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(texts)


class FrozenEncoder:
    """A pretrained encoder that is not trained.

    Args:
        source: its folder or Hub id.
        tokens: of its tokenizer.
        flag: what errors call `source`.

    Raises:
        ValueError: it cannot be loaded.
    """

    def __init__(self, source: str, tokens: Tokens, flag: str = "--model"):
        with explained_where_unloadable(flag, source, "give the folder or Hub id of a transformers encoder"):
            model: Any = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        self.model, self.tokens = model.to(best_device()).eval(), tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Features float32 (n, d): the mean of the last hidden states of all tokens in all windows, of unit length."""
        windows, owners = self.tokens.windows(texts)
        order = np.argsort([len(row) for row in windows], kind="stable")
        sums = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float64)
        for start in range(0, len(order), READ_AT_ONCE):
            rows = order[start : start + READ_AT_ONCE]
            inputs = self.tokens.padded([windows[row] for row in rows], self.model.device)
            with torch.inference_mode():
                hidden = self.model(**inputs).last_hidden_state * inputs["attention_mask"][:, :, None]
            np.add.at(sums, owners[rows], hidden.sum(1).double().cpu().numpy())
        features: np.ndarray = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return features


def load_frozen_encoder(encoder: str, flag: str) -> FrozenEncoder:
    """The encoder of this folder or Hub id, which `flag` gave; it reads long texts in windows.

    Raises:
        ValueError: it cannot be loaded.
    """
    source = default_source() if encoder == MINILM else encoder
    tokenizer, most = load_tokenizer(flag, source, "give the folder or Hub id of a transformers encoder")
    return FrozenEncoder(source, Tokens(tokenizer, min(WINDOW, most), MOST_WINDOWS), flag)


def cross_fitted(features: Any, labels: np.ndarray, classes: int, folds: int = 5) -> tuple[np.ndarray, Linear]:
    """Probabilities float32 (n, classes) that logistic regressions give for rows that they were not fitted on, and the
    one of all rows; the C is that of the best macro-F1 on the rows that each left out.

    Args:
        features: (n, d), dense or sparse.
        labels: ints (n,); every class has `folds` rows or more.
    """
    held_out = [np.flatnonzero(part) for part in folds_of(labels, folds)]
    found: list[np.ndarray] = []
    for penalty in PENALTIES:
        rows = np.zeros((len(labels), classes), dtype=np.float32)
        for part in held_out:
            rest = np.setdiff1d(np.arange(len(labels)), part)
            rows[part] = fit_one(features[rest], labels[rest], classes, penalty, True).probabilities(features[part])
        found.append(rows)
    best = int(np.argmax([macro_f1(labels, rows.argmax(1), classes) for rows in found]))
    return found[best], fit_one(features, labels, classes, PENALTIES[best], True)


def folds_of(labels: np.ndarray, folds: int) -> Iterator[np.ndarray]:
    """Masks (n,) of the rows of each fold: every label's rows are dealt out in turn."""
    places = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        own = labels == label
        places[own] = np.arange(own.sum()) % folds
    return (places == fold for fold in range(folds))
