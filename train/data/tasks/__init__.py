"""Tasks of language models, loaded by name, folder or file; without torch."""

from train.data.tasks.loading import SOURCES, TASKS, load_task
from train.data.tasks.task import Example, Task

__all__ = ["SOURCES", "TASKS", "Example", "Task", "load_task"]
