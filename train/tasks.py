"""The command `python -m train tasks`: the tasks of language models and their prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from train.data.tasks import Task


@dataclass(frozen=True, kw_only=True)
class TasksSettings(Command, does="train.tasks:show_tasks"):
    """List the tasks of language models, or show one: its sizes, a prompt and its answer.

    Example: python -m train tasks --show gsm8k
    """

    show: str | None = field("a task's name, or a jsonl file or folder of prompts", default=None)
    data: str | None = field("folder, file or Hugging Face name to read it from", default=None)
    shots: int | None = field(
        "answered questions before each question of mmlu (default: 5)", default=None
    )
    seed: int = field("seed of splits that are carved out of train", default=0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show is None and (self.data is not None or self.shots is not None):
            raise SettingError("expected --show with the task that --data and --shots belong to")


def show_tasks(settings: TasksSettings) -> None:
    """Print the names of the tasks, or one task."""
    from train.data.tasks import SOURCES, load_task  # only here: every command imports this module

    if settings.show is not None:
        _print_task(
            load_task(settings.show, data=settings.data, shots=settings.shots, seed=settings.seed)
        )
        return
    for name, source in SOURCES.items():
        place = source.place(None)
        where = f"{place} (Hugging Face)" if isinstance(place, str) else str(place)
        print(f"{name:14} {where}")


def _print_task(task: Task) -> None:
    sizes = ", ".join(f"{len(examples):,} {split}" for split, examples in task.splits().items())
    closed = f"{len(task.answers)} answers" if task.answers else "open answers"
    left_out = f", {len(task.left_out)} left out" if task.left_out else ""
    print(f"{task.name}: {sizes}{left_out}; {closed}, up to {task.max_new_tokens} new tokens")
    split, example = next((s, part[0]) for s, part in task.splits().items() if part)
    print(f"\nprompt of {example.id} ({split}):\n{example.prompt}")
    print(f"\ncompletion, with its leading space:\n{example.completion}")
    print(f"\nright answer as it is compared: {example.gold}")
