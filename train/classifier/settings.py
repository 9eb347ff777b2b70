"""Settings of the commands for image and text classifiers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.cli.shared import Limit, Overwrite
from edge_runtime.contract import SecondView
from edge_runtime.errors import SettingError

Augmentation = Literal["auto", "none", "shift", "mirror", "shift+mirror"]
Stage2Data = Literal["auto", "same", "augment", "holdout", "crossfit"]
_AUGMENT_HELP = (
    "random changes of training pictures; auto is shift+mirror for colour pictures and shift for "
    "grey ones, which may show characters"
)
_ADDRESS = re.compile(r"(\[[^\]]+\]|[^/\\:]+):\d+")
AUTO = "auto"
_ABSTAINING = ("deep_gamblers", "self_adaptive")
_COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class Data(Limit):
    """`--data`, `--limit` and `--device`, for a command that runs models on labelled data."""

    data: str = field("data set name, folder or file", default="digits")
    skip_unreadable: bool = field(
        "leave out pictures that do not decode, and say how many", default=False
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        "device of the computation; auto uses CUDA if there is a device", default="auto"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Data, Overwrite):
    """Flags that stage 1 and stage 2 share."""

    extra: str | None = field(
        "data set whose training rows are added, such as the output of `train harvest`",
        default=None,
    )
    out: Path = field("checkpoint folder to write")
    batch_size: int | None = field(
        "inputs per step (default: 32, or 128 from 10,000 inputs on)", default=None, least=1
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "number format of the computation; auto is bf16 on CUDA, else fp32", default="auto"
    )
    compile: bool = field(
        "compile the model with torch.compile; pays off if a step takes long", default=False
    )
    resume: bool = field("continue an interrupted run after its last epoch", default=False)


@dataclass(frozen=True, kw_only=True)
class FitSettings(TrainingRun, does="train.classifier.stage1:fit"):
    """Fit a classifier with cross-entropy until its validation loss stops falling.

    Example: python -m train fit --model small-cnn --data digits --out runs/small
    """

    model: str = field(
        "architecture, or a folder with a config.json, whose weights are the start if it has any; "
        "auto is small-cnn below 64 pixels and mobilenetv3-small from there on",
        default=AUTO,
    )
    image_size: int | None = field(
        "side of the model's input in pixels (default: fits the data, at most 160 if their sizes "
        "differ)",
        default=None,
        least=1,
    )
    epochs: int = field(
        "largest number of epochs; early stopping mostly ends the run sooner", default=60, least=1
    )
    patience: int = field(
        "epochs without a lower validation loss after which training stops", default=8, least=1
    )
    learning_rate: float | None = field(
        "peak learning rate; lower it if the loss becomes NaN (default: 3e-3, with attention 1e-3; "
        "from pretrained weights 3e-4, with attention 5e-5)",
        default=None,
        above=0,
    )
    weight_decay: float = field("decoupled weight decay of AdamW", default=1e-4, least=0)
    augment: Augmentation = field(_AUGMENT_HELP, default="auto")
    seed: int = field("seed of the weights and of the order of the inputs", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class DistillSettings(FitSettings, does="train.classifier.stage1:distill"):
    """Fit a classifier to a teacher's answers (Hinton et al. 2015), and to labels if there are any.

    The teacher is a checkpoint or a running server (cloud_stub, or another that speaks the Open
    Inference Protocol). A server's answer holds a class and a confidence: the rest of the
    probability is spread evenly over the other classes, at temperature 1. The answers are kept
    next to --out until the student is written, so an interrupted run does not repeat requests.

    Example: python -m train distill --teacher runs/large --data digits --unlabelled digits-more
    --out runs/small
    """

    teacher: str = field("checkpoint folder, or HOST:PORT of a running server")
    teacher_model: str = field("the teacher's name on the server", default=contract.DEFAULT_MODEL)
    unlabelled: str | None = field(
        "folder of pictures, table or data set whose inputs are added without labels", default=None
    )
    temperature: float | None = field(
        "divides the logits of both models; higher values soften them (default: 4; always 1 with "
        "a server)",
        default=None,
        above=0,
    )
    weight: float = field(
        "share of the loss that follows the teacher; the rest follows the labels",
        default=0.9,
        within=(0, 1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_is_server and self.temperature not in {None, 1.0}:
            raise SettingError(
                f"expected --temperature 1 or none with a server, got {self.temperature}: its "
                "answers hold no logits to soften, use its checkpoint as --teacher"
            )
        if self.weight == 0.0 and self.unlabelled:
            raise SettingError(
                "expected --weight above 0 with --unlabelled, got 0: only the teacher says what "
                "inputs without labels are"
            )

    @property
    def teacher_is_server(self) -> bool:
        """True if `teacher` is an address; a file or folder of that name comes first."""
        return _ADDRESS.fullmatch(self.teacher) is not None and not Path(self.teacher).exists()


@dataclass(frozen=True, kw_only=True)
class TuneSettings(TrainingRun, does="train.classifier.stage2:tune"):
    """Tune a fitted classifier so that it is sure where it is right and unsure where it is wrong.

    `--objective cross_entropy` is the control: the same start, steps and rates without Gatekeeper.

    Example: python -m train tune --checkpoint runs/small --data digits --out runs/tuned
    """

    checkpoint: Path = field("checkpoint folder to start from")
    objective: Literal[
        "gatekeeper",
        "cross_entropy",
        "label_smoothing",
        "cascade_aware",
        "deep_gamblers",
        "self_adaptive",
    ] = field(
        "loss of the tuning; cross_entropy is the control",
        default="gatekeeper",
    )
    alpha: float = field(
        "Gatekeeper: weight of the inputs that M_S gets right; keep it above the share that it "
        "gets wrong",
        default=0.5,
        within=(0, 1),
    )
    smoothing: float = field(
        "label_smoothing: share of each label that is spread over all classes",
        default=0.1,
        least=0,
        below=1,
    )
    payoff: float = field(
        "deep_gamblers: payoff of a right bet, at most the number of classes; a greater one "
        "abstains less",
        default=2.2,  # the paper's for the ten classes of CIFAR-10
        above=1,
    )
    momentum: float = field(
        "self_adaptive: share of a soft target that is kept each time its row is seen",
        # The paper uses 0.99 from random weights on: over the 15 epochs here that would move no
        # target by more than 0.14.
        default=0.9,
        least=0,
        below=1,
    )
    head: Literal["shared", "auxiliary"] = field(
        "auxiliary: cross-entropy on the model's head, the objective on a second one that is "
        "dropped after training",
        default="shared",
    )
    stage2_data: Stage2Data = field(
        "data to tune on: the training data unchanged (same) or augmented, half of validation "
        "(holdout), or the training data judged by models that never saw them (crossfit); auto "
        "augments pictures that M_S knows by heart",
        default="auto",
    )
    correctness: Literal["train", "eval"] = field(
        "source of right and wrong: the batch's own logits (train), or a pass in eval mode once "
        "per epoch",
        default="train",
    )
    large: Path | None = field(
        "checkpoint folder of M_L, for cascade_aware and for figures of the cascade", default=None
    )
    guard: bool = field("stop a run that collapses; --guard=false lets it continue", default=True)
    epochs: int = field("number of epochs (no early stopping)", default=15, least=1)
    accumulation: int = field(
        "steps per update; more of them act like a larger batch", default=1, least=1
    )
    learning_rate: float | None = field(
        "peak learning rate (default: half that of `fit`)", default=None, above=0
    )
    augment: Augmentation = field(f"for --stage2-data augment: {_AUGMENT_HELP}", default="auto")
    seed: int = field("seed of the order of the inputs", default=0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "auxiliary" and self.objective in _ABSTAINING:
            raise SettingError(
                f"expected --head shared with --objective {self.objective}, got auxiliary: its "
                "abstention logit belongs with the classes of the model's own head"
            )
        if self.objective == "cascade_aware" and self.large is None:
            raise SettingError(
                "expected --large with --objective cascade_aware, got none: it needs to know where "
                "M_L is right"
            )
        if self.objective != "gatekeeper" and self.correctness != "train":
            raise SettingError(
                f"expected --objective gatekeeper with --correctness eval, got {self.objective}"
            )
        if self.augment != "auto" and self.stage2_data not in {"auto", "augment"}:
            raise SettingError(
                f"expected --stage2-data augment with --augment, got {self.stage2_data}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Data, does="train.classifier.evaluate:evaluate"):
    """Print accuracy, s_o and AUROC of a checkpoint, and s_d and joint accuracy with an M_L.

    With --second-look a second column shows the figures with a second view of the inputs near the
    threshold, and its cost.

    Example: python -m train evaluate --checkpoint runs/tuned --data digits --large runs/large
    """

    checkpoint: Path = field("checkpoint folder of M_S")
    split: Literal["train", "validation", "test", "all"] = field(
        "split to evaluate on; all is every labelled input of the data", default="test"
    )
    large: Path | None = field("checkpoint folder of M_L", default=None)
    second_look: SecondView = field("second view, averaged with the first", default="none")
    band: float = field(
        "width of the second look: its inputs are at most this many ranks from the threshold, as "
        "a share of the split; 1 is every input",
        default=0.1,
        least=0,
    )
    deferral: float = field(
        "deferral ratio at which the threshold lies", default=0.3, within=(0, 1)
    )
    out: Path | None = field("JSON file to write", default=None)


@dataclass(frozen=True, kw_only=True)
class DeferralHeadSettings(Data, does="train.classifier.deferral_head:fit_deferral_head"):
    """Fit a head to a checkpoint that estimates where M_L is right and M_S wrong.

    It is a logistic regression on M_S's penultimate features and max softmax, fitted on validation
    and stored with the weights, which stay unchanged. `python -m export --confidence deferral_head`
    puts it into the graph.

    Example: python -m train deferral-head --checkpoint runs/small --large runs/large --data digits
    """

    checkpoint: Path = field("checkpoint folder of M_S; the head is written into it")
    large: Path = field("checkpoint folder of M_L")
    seed: int = field("seed of the folds of the cross-validation", default=0, least=0)
    overwrite: bool = field("replace an older head", default=False)


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Overwrite, does="train.classifier.convert:convert_weights"):
    """Turn a file of pretrained weights into a checkpoint folder.

    Example: python -m train convert --weights resnet56.th --model resnet-56 --labels cat,dog
    --image-mean 0.485,0.456,0.406 --image-std 0.229,0.224,0.225 --out runs/large
    """

    weights: Path = field("state dict (.pt, .pth, .th, .safetensors); none of its code is run")
    model: str = field("architecture of the weights")
    labels: tuple[str, ...] = field("class names in the order of the logits", default=())
    data: str | None = field("data set whose class names are used instead", default=None)
    image_mean: tuple[float, ...] = field("mean of each colour channel in training")
    image_std: tuple[float, ...] = field(
        "standard deviation of each colour channel in training", above=0
    )
    image_size: int = field("side of the model's input in pixels", default=32, least=1)
    out: Path = field("checkpoint folder to write")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.labels) == bool(self.data):
            raise SettingError("expected either --labels a,b,... or --data to take them from")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != _COLOURS:
                raise SettingError(
                    f"expected three numbers for --{name.replace('_', '-')}, got "
                    f"{list(getattr(self, name))}"
                )


@dataclass(frozen=True, kw_only=True)
class HarvestSettings(Overwrite, does="train.classifier.harvest:harvest"):
    """Turn recorded inputs and the large model's answers into a data set, each picture once.

    Its labels are M_L's answers, in the order of the classes of --labels-from; a column holds M_L's
    confidence. If a picture was recorded several times, the newest answer counts. The result can
    be used with `tune --extra`, `distill --extra` and `distill --unlabelled`.

    Example: python -m train harvest --records recorded --labels-from runs/small --out runs/harvest
    """

    records: tuple[Path, ...] = field("folders of recorders, such as a,b", nonempty=True)
    labels_from: str = field("bundle, checkpoint or data set that has the class names")
    out: Path = field("data set folder to write")
    min_confidence: float | None = field(
        "smallest confidence of M_L to keep an answer (default: keep all)", default=None
    )
