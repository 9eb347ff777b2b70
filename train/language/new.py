"""Makes checkpoints to start from: with random weights, or converted from llama2.c."""

from __future__ import annotations

from train.data.records import read_text
from train.data.tasks import load_task
from train.errors import DataError
from train.language.settings import ConvertLanguageSettings, NewLanguageSettings
from train.models import LanguageModel, save_language_model
from train.models.llama2c import read_llama, read_tokenizer
from train.models.untrained import Shape, trained_tokenizer, untrained_language_model
from train.training.output import explain_full_disk, refuse_existing, settings_record


def make_model(settings: NewLanguageSettings) -> None:
    """Make a language model with random weights, and write the checkpoint.

    Raises:
        OutputError: The folder is not empty.
        DataError: There is no text to train the tokenizer on.
        FullDiskError: The checkpoint could not be written.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    shape = Shape(
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        kv_heads=settings.kv_heads or settings.heads,
        inner=settings.inner or 4 * settings.width,
        context=settings.context,
        window=settings.window,
    )
    tokenizer = trained_tokenizer(_read_texts(settings), settings.vocabulary)
    model = untrained_language_model(settings.architecture, shape, tokenizer, seed=settings.seed)
    description = f"{settings.architecture} with {model.weights:,} random weights"
    _write("new-lm", settings, model, description)


def convert_model(settings: ConvertLanguageSettings) -> None:
    """Convert the weights and the tokenizer of llama2.c, and write the checkpoint.

    Raises:
        OutputError: The folder is not empty.
        CheckpointError: A file is missing or damaged, or the two do not belong together.
        FullDiskError: The checkpoint could not be written.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    llama = read_llama(settings.weights)
    tokenizer = read_tokenizer(
        settings.tokenizer, llama.config.vocab_size, llama.config.max_position_embeddings
    )
    model = LanguageModel(llama, tokenizer, None)
    _write("convert-lm", settings, model, f"Llama with {model.weights:,} weights")


def _write(
    command: str,
    settings: NewLanguageSettings | ConvertLanguageSettings,
    model: LanguageModel,
    description: str,
) -> None:
    with explain_full_disk(settings.out.parent, " and run again"):
        save_language_model(model, settings.out, extra=settings_record(command, settings))
    print(f"{settings.out}: {description} and {model.vocabulary:,} tokens", flush=True)


def _read_texts(settings: NewLanguageSettings) -> list[str]:
    """Return the texts to train the tokenizer on."""
    if settings.texts is not None:
        texts = read_text(settings.texts).splitlines()
    else:
        task = load_task(settings.task or "", data=settings.data)
        texts = [example.prompt + example.completion for example in task.train]
    if not any(map(str.strip, texts)):
        raise DataError(
            f"expected text in {settings.texts or settings.task} to train a tokenizer on, got none"
        )
    return texts
