"""Methods that make a language model unsure, behind one interface.

A rival names the query that a checkpoint answers (`query`), and derives one or several
uncertainties from the answers (`uncertainties`). Whatever it fits is fitted on validation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, metrics
from train.comparison.figures import Candidate
from train.comparison.post_hoc import HeadInputs, fit_head, predict_out_of_fold
from train.comparison.scores import SPLITS
from train.language.answers import Answers
from train.models.deferral_head import sigmoid

Floats = npt.NDArray[np.float64]
Uncertainties = dict[str, dict[str, Floats]]
"""Kind -> split -> float64 [n]; NaN is the most uncertain."""
UNTUNED, CONTROL = "untuned", "control"
REDUCE_CONFIDENCE: Final = "Respond with low confidence if you are uncertain."
ANSWER_N: Final = "Respond with 'N' if you are uncertain."
TOKEN_QUANTILES, NOT_N = "token_quantiles", "not_n"
_N = "N"
_AROUND = " \t\r\n.'\""
_SEED = 0


@dataclass(frozen=True)
class Query:
    """A checkpoint and the form of its prompts; rivals with the same query share the answers.

    Attributes:
        model: Name of the checkpoint.
        instruction: Text before every prompt, or None.
        watch: Answer whose probability is recorded, or None.
    """

    model: str
    instruction: str | None = None
    watch: str | None = None


@dataclass(frozen=True, eq=False)
class Responses:
    """The answers of one checkpoint to one query.

    Attributes:
        answers: Split -> answers.
        large: Split -> whether M_L is right, bool [n].
        vocabulary: V, the number of its tokens.
        task_answers: The closed set of the task's answers; none of them counts as an abstention.
    """

    answers: Mapping[str, Answers]
    large: Mapping[str, npt.NDArray[np.bool_]]
    vocabulary: int
    task_answers: tuple[str, ...] = ()


class Rival(ABC):
    """One method that makes a language model unsure.

    Attributes:
        name: Name of its rows, before ` + KIND`.
        query: The query whose answers it reads.
        is_meaningful_from_scratch: Whether it is meaningful for a model that has never seen an
            instruction.
    """

    name: str
    query: Query
    is_meaningful_from_scratch: bool = True

    @abstractmethod
    def uncertainties(self, responses: Responses) -> Uncertainties:
        """Return its uncertainties.

        Raises:
            TrainError: It cannot be fitted to these answers.
        """


class Plain(Rival):
    """A checkpoint's own answers, by every confidence (Rabanser et al. 2025, section 3.3).

    Args:
        model: Name of the checkpoint: untuned, control, gatekeeper-0.3 and the like.
    """

    def __init__(self, model: str) -> None:
        self.name, self.query = model, Query(model)

    def uncertainties(self, responses: Responses) -> Uncertainties:
        """Return an uncertainty for every kind of `metrics.SEQUENCE_KINDS`."""
        return {
            kind: {
                split: uncertainty(kind, answers.confidence[kind], responses.vocabulary)
                for split, answers in responses.answers.items()
            }
            for kind in metrics.SEQUENCE_KINDS
        }


class TokenQuantiles(Rival):
    """A learned post-hoc rule over quantiles of the token log-probabilities.

    Like Gupta et al. 2024 it reads the quantiles of an answer's token log-probabilities, and learns
    on held-out examples, with M_L's answers, when to defer. It differs in three points:

    - the rule is the logistic regression of `train.comparison.post_hoc`, not a neural network:
      validation splits are small. Cross-validation chooses its strength;
    - like the deferral head there, it estimates where M_L is right and M_S wrong;
    - the levels are tenths; hidden states are not read (theirs with embeddings is another rule).

    It is fitted on validation alone, and its values there are out of fold.

    Args:
        model: Name of the checkpoint.
    """

    def __init__(self, model: str) -> None:
        self.name, self.query = model, Query(model)

    def uncertainties(self, responses: Responses) -> Uncertainties:
        """Fit the rule; return the probability that M_L is right and M_S wrong.

        Raises:
            DataError: Validation has too few such examples, or too few others.
        """
        validation, test = (responses.answers[split] for split in SPLITS)
        kept = has_quantiles(validation)
        inputs = HeadInputs(validation.quantiles[kept], validation.right[kept])
        target = responses.large["validation"][kept] & ~inputs.right
        rule = fit_head(inputs, target, _SEED)
        values = {split: np.full(len(responses.answers[split].ids), np.nan) for split in SPLITS}
        values["validation"][kept] = predict_out_of_fold(inputs, target, _SEED)
        kept = has_quantiles(test)
        values["test"][kept] = sigmoid(rule.logit(test.quantiles[kept]))
        return {TOKEN_QUANTILES: values}


def has_quantiles(answers: Answers) -> npt.NDArray[np.bool_]:
    """Return which answers have quantiles, bool [n]; the others are deferred unread."""
    return np.asarray(np.isfinite(answers.quantiles).all(axis=1))


class ReduceConfidence(Plain):
    """The prompt *Reduce confidence* before every question (Rabanser et al. 2025, appendix C.2).

    Args:
        model: Name of the checkpoint, which has to follow instructions.
    """

    is_meaningful_from_scratch = False

    def __init__(self, model: str = UNTUNED) -> None:
        super().__init__(model)
        self.name, self.query = "reduce_confidence", Query(model, REDUCE_CONFIDENCE)


class AnswerN(Rival):
    """The prompt *Answer "N"* before every question (Rabanser et al. 2025, appendix C.2).

    The uncertainty is the probability of "N" as the first token of the answer; the answer "N"
    itself is always deferred.

    Args:
        model: Name of the checkpoint, which has to follow instructions, and whose tokenizer needs
            a token for N.
    """

    name = "answer_n"
    is_meaningful_from_scratch = False

    def __init__(self, model: str = UNTUNED) -> None:
        self.query = Query(model, ANSWER_N, _N)

    def uncertainties(self, responses: Responses) -> Uncertainties:
        """Return the probability of "N"; NaN where "N" was the answer."""
        values = {}
        for split, answers in responses.answers.items():
            abstains = [is_abstention(text, responses.task_answers) for text in answers.texts]
            values[split] = np.where(abstains, np.nan, np.exp(answers.watched))
        return {NOT_N: values}


def is_abstention(text: str, task_answers: Iterable[str] = ()) -> bool:
    """Return whether a generated text is the abstention "N", and not the task's own answer "N"."""
    return text.strip(_AROUND) == _N and _N not in task_answers


def candidate(
    kind: str, values: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_]
) -> Candidate:
    """Return an uncertainty, ready to be measured.

    Args:
        kind: One of `metrics.SEQUENCE_KINDS`, `TOKEN_QUANTILES` or `NOT_N`; 1 - value is the
            confidence, except for the kinds whose uncertainty is a negative logarithm.
        values: The uncertainties, float [k, n], one row per seed.
        right: Whether the answers are right, bool [k, n].
    """
    is_logarithm = kind in metrics.SEQUENCE_KINDS and kind != contract.NEG_ENTROPY
    return Candidate(
        values.astype(np.float32),
        right,
        passes=1.0,
        is_probability=not is_logarithm,
        is_logarithm=is_logarithm,
    )


def uncertainty(kind: str, confidence: Floats, vocabulary: int) -> Floats:
    """Return the uncertainty that belongs to a confidence, float64 [n].

    For `neg_entropy` it is the mean entropy over log V, 1 minus `unit_sequence_confidence`; for the
    others the negative logarithm of that. 1 - p itself would leave float32 no digits where p is
    small and, from 1 on, none where it is large.

    Args:
        kind: One of `metrics.SEQUENCE_KINDS`.
        confidence: float64 [n].
        vocabulary: V, the number of tokens.
    """
    if kind == contract.NEG_ENTROPY:
        # A vocabulary of one token leaves nothing to be unsure of.
        return np.asarray(-confidence / np.log(vocabulary)) if vocabulary > 1 else 0.0 * confidence
    if kind in {contract.MEAN_LOGPROB, contract.SUM_LOGPROB}:
        return np.asarray(-confidence)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(confidence))


def all_rivals(models: Iterable[str]) -> list[Rival]:
    """Return every rival of a comparison.

    Args:
        models: Names of the checkpoints: `UNTUNED`, `CONTROL` and the tuned ones.
    """
    rivals: list[Rival] = []
    for model in models:
        rivals += [Plain(model), TokenQuantiles(model)]
    return [*rivals, ReduceConfidence(), AnswerN()]
