"""The command `python -m train convert`: a weight file as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

_COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Command):
    """Turn a file of pretrained weights into a checkpoint folder.

    Example: python -m train convert --weights resnet56.th --model resnet-56 --labels cat,dog
    --image-mean 0.485,0.456,0.406 --image-std 0.229,0.224,0.225 --out runs/large
    """

    weights: Path = field("state dict (.pt, .pth, .th, .safetensors); no code of it is run")
    model: str = field("architecture of the weights")
    labels: tuple[str, ...] = field("class names in the order of the logits", default=())
    data: str | None = field("data set to take the class names from instead", default=None)
    image_mean: tuple[float, ...] = field("mean a channel was normalised with")
    image_std: tuple[float, ...] = field("deviation a channel was normalised with")
    image_size: int = field("side in pixels", default=32)
    out: Path = field("checkpoint folder to write")
    overwrite: bool = field("replace the checkpoint folder", default=False)

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
        if min(self.image_std) <= 0:
            raise SettingError(f"expected --image-std above 0, got {list(self.image_std)}")
        if self.image_size < 1:
            raise SettingError(f"expected --image-size of at least 1, got {self.image_size}")

    def run(self) -> None:
        """Convert, and write the checkpoint."""
        from train import data
        from train.models import Normalisation, save
        from train.models.convert import convert
        from train.training.output import explain_full_disk, refuse_existing, settings_record

        refuse_existing(self.out, overwrite=self.overwrite)
        labels = data.load(self.data).label_names if self.data else self.labels
        checkpoint = convert(
            self.weights,
            self.model,
            labels=labels,
            image_size=(self.image_size, self.image_size),
            normalisation=Normalisation(self.image_mean, self.image_std),
        )
        with explain_full_disk(self.out.parent, " and run again"):
            save(checkpoint, self.out, extra=settings_record("convert", self))
        print(f"{self.out}: {self.model} with {len(labels)} labels", flush=True)
