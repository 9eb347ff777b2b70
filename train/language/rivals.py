"""Ways to make a language model unsure, behind one interface.

A rival says what a checkpoint is to be asked (`asking`), and makes of its answers one or several
uncertainties (`doubts`). What it fits, it fits on validation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, metrics
from train.comparison.figures import Candidate
from train.comparison.post_hoc import HeadInputs, fit_head, predict_out_of_fold
from train.comparison.scores import SPLITS
from train.language.answers import Answers
from train.models.deferral_head import sigmoid

Floats = npt.NDArray[np.float64]
UNTUNED, CONTROL = "untuned", "control"
REDUCE_CONFIDENCE: Final = "Respond with low confidence if you are uncertain."
ANSWER_N: Final = "Respond with 'N' if you are uncertain."
TOKEN_QUANTILES, NOT_N = "token_quantiles", "not_n"
_N = "N"
_AROUND = " \t\r\n.'\""
_SEED = 0


@dataclass(frozen=True)
class Asking:
    """What is asked of a checkpoint, once for all the rivals that read the answers.

    Attributes:
        model: The name of the checkpoint.
        instruction: What stands before every prompt.
        watch: The answer whose probability is wanted.
    """

    model: str
    instruction: str | None = None
    watch: str | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """What one checkpoint answered.

    Attributes:
        answers: By split.
        large: By split: where M_L is right, bool [n].
        vocabulary: V, its tokens.
        taken: Answers of the task, so that none of these is read as an abstention.
    """

    answers: Mapping[str, Answers]
    large: Mapping[str, npt.NDArray[np.bool_]]
    vocabulary: int
    taken: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Doubt:
    """An uncertainty on every split; NaN is the most uncertain.

    Attributes:
        uncertainty: By split: float64 [n]; kept so that none loses digits where M_S is certain.
        is_probability: Whether 1 - uncertainty is a confidence in [0, 1].
        is_logarithm: Whether exp(-uncertainty) is.
    """

    uncertainty: Mapping[str, Floats]
    is_probability: bool = False
    is_logarithm: bool = False


class Rival(ABC):
    """One way to make a language model unsure.

    Attributes:
        name: What its rows are called, before ` + KIND`.
        source: Where it is described.
        needs: What it takes, in words.
        asking: What is asked.
        is_meaningful_from_scratch: Whether it means anything for a model that never saw an
            instruction.
    """

    name: str
    source: str
    needs: str
    asking: Asking
    is_meaningful_from_scratch: bool = True

    @abstractmethod
    def doubts(self, heard: Heard) -> dict[str, Doubt]:
        """Return its uncertainties by kind.

        Raises:
            TrainError: It can't be fitted to these answers.
        """


class Plain(Rival):
    """A checkpoint as it answers, by every confidence there is.

    Args:
        model: The name of the checkpoint: untuned, control, gatekeeper-0.3 and the like.
        source: Where its training is described.
    """

    needs = "a checkpoint"

    def __init__(self, model: str, source: str = "Rabanser et al. 2025, section 3.3") -> None:
        self.name, self.source, self.asking = model, source, Asking(model)

    def doubts(self, heard: Heard) -> dict[str, Doubt]:
        """Return an uncertainty for every kind of `metrics.SEQUENCE_KINDS`."""
        return {kind: sequence_doubt(kind, heard) for kind in metrics.SEQUENCE_KINDS}


class TokenQuantiles(Rival):
    """A learned post-hoc rule over quantiles of the token log-probabilities.

    It follows Gupta et al. 2024 in what it reads, the quantiles of an answer's token
    log-probabilities, and in learning on held-out examples when to defer. It differs in how:

    - the rule is the logistic regression of `train.comparison.post_hoc`, not a neural network: validation
      splits are small, and its strength is chosen by cross-validation;
    - it estimates where M_L is right and M_S wrong, as the deferral head of `train.comparison.post_hoc`;
    - the levels are tenths; hidden states are not read (theirs with embeddings is another rule).

    It is fitted on validation alone, and its values there are out of fold.

    Args:
        model: The name of the checkpoint.
    """

    source = "Gupta et al. 2024, the post-hoc rule over quantiles"
    needs = "a checkpoint, and validation examples with what M_L gets right"

    def __init__(self, model: str) -> None:
        self.name, self.asking = model, Asking(model)

    def doubts(self, heard: Heard) -> dict[str, Doubt]:
        """Fit the rule; return the probability that M_L is right and M_S wrong.

        Raises:
            DataError: There are too few such examples in validation, or too few others.
        """
        answers = heard.answers["validation"]
        kept = known(answers)
        seen = HeadInputs(answers.quantiles[kept], answers.right[kept])
        target = heard.large["validation"][kept] & ~seen.right
        rule = fit_head(seen, target, _SEED)
        found = {split: np.full(len(heard.answers[split].ids), np.nan) for split in SPLITS}
        found["validation"][kept] = predict_out_of_fold(seen, target, _SEED)
        test = heard.answers["test"]
        found["test"][known(test)] = sigmoid(rule.logit(test.quantiles[known(test)]))
        return {TOKEN_QUANTILES: Doubt(found, is_probability=True)}


def known(answers: Answers) -> npt.NDArray[np.bool_]:
    """Return where an answer has quantiles, bool [n]; without any it is deferred unread."""
    return np.asarray(np.isfinite(answers.quantiles).all(axis=1))


class ReduceConfidence(Plain):
    """The prompt *Reduce confidence*, in front of every question.

    Args:
        model: The name of the checkpoint that is asked.
    """

    needs = "a checkpoint that follows instructions"
    is_meaningful_from_scratch = False

    def __init__(self, model: str = UNTUNED) -> None:
        super().__init__(model, "Rabanser et al. 2025, appendix C.2, Reduce confidence")
        self.name, self.asking = "reduce_confidence", Asking(model, REDUCE_CONFIDENCE)


class AnswerN(Rival):
    """The prompt *Answer "N"*, in front of every question.

    The uncertainty is the probability of "N" as the first token of the answer; an answer that is
    "N" defers, whatever it was.

    Args:
        model: The name of the checkpoint that is asked.
    """

    name = "answer_n"
    source = 'Rabanser et al. 2025, appendix C.2, Answer "N"'
    needs = "a checkpoint that follows instructions, whose tokenizer has a token for N"
    is_meaningful_from_scratch = False

    def __init__(self, model: str = UNTUNED) -> None:
        self.asking = Asking(model, ANSWER_N, _N)

    def doubts(self, heard: Heard) -> dict[str, Doubt]:
        """Return the probability of "N"; NaN where that was the answer."""
        found = {}
        for split, answers in heard.answers.items():
            said = np.array([is_n(text, heard.taken) for text in answers.texts], np.bool_)
            found[split] = np.where(said, np.nan, np.exp(answers.watched))
        return {NOT_N: Doubt(found, is_probability=True)}


def is_n(text: str, taken: Iterable[str] = ()) -> bool:
    """Return whether a text is the abstention "N".

    Args:
        text: What was generated.
        taken: The task's own answers: where "N" is one, it means that.
    """
    return text.strip(_AROUND) == _N and _N not in taken


def sequence_doubt(kind: str, heard: Heard) -> Doubt:
    """Return the uncertainty of one kind of `metrics.SEQUENCE_KINDS`.

    For `neg_entropy` it is the mean entropy over log V, 1 minus `unit_sequence_confidence`; for the
    others the negative logarithm of it. 1 - p itself would leave float32 no digits where p is small
    and, from 1 on, none where it is great.
    """
    found = {
        s: uncertainty(kind, a.confidence[kind], heard.vocabulary) for s, a in heard.answers.items()
    }
    is_entropy = kind == contract.NEG_ENTROPY
    return Doubt(found, is_probability=is_entropy, is_logarithm=not is_entropy)


def sequence_candidate(kind: str, answers: Answers, vocabulary: int) -> Candidate:
    """Return one model's answers with one kind of confidence, ready to be measured.

    Args:
        kind: One of `metrics.SEQUENCE_KINDS`.
        answers: Of one split.
        vocabulary: V.
    """
    is_entropy = kind == contract.NEG_ENTROPY
    return Candidate(
        uncertainty(kind, answers.confidence[kind], vocabulary)[None].astype(np.float32),
        answers.right[None],
        passes=1.0,
        is_probability=is_entropy,
        is_logarithm=not is_entropy,
    )


def uncertainty(kind: str, confidence: Floats, vocabulary: int) -> Floats:
    """Return what `sequence_doubt` says, for one split.

    Args:
        kind: One of `metrics.SEQUENCE_KINDS`.
        confidence: float64 [n].
        vocabulary: V.
    """
    if kind == contract.NEG_ENTROPY:
        # With one token there is nothing to be unsure of.
        return np.asarray(-confidence / np.log(vocabulary)) if vocabulary > 1 else 0.0 * confidence
    if kind in {contract.MEAN_LOGPROB, contract.SUM_LOGPROB}:
        return np.asarray(-confidence)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(confidence))


def all_rivals(models: Iterable[str]) -> list[Rival]:
    """Return every rival of a comparison.

    Args:
        models: The names of the checkpoints: `UNTUNED` and `CONTROL`, and what was tuned.
    """
    rivals: list[Rival] = []
    for model in models:
        rivals += [Plain(model), TokenQuantiles(model)]
    return [*rivals, ReduceConfidence(), AnswerN()]
