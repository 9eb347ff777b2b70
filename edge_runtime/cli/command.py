"""A command as data: its flags, the bounds of their values, and the function that does the work."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from edge_runtime.errors import SettingError


@dataclass(frozen=True)
class Bounds:
    """Inclusive and exclusive limits of a number; infinities and NaN are outside any bounds."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        if low is not None and high is not None:
            left = "[" if self.least is not None else "("
            right = "]" if self.most is not None else ")"
            return f"in {left}{low:.10g}, {high:.10g}{right}"
        limits = {"at least": self.least, "above": self.above, "at most": self.most}
        limits["below"] = self.below
        return " ".join(
            f"{word} {limit:.10g}" for word, limit in limits.items() if limit is not None
        )


def field(
    help_text: str,
    *,
    default: Any = dataclasses.MISSING,
    positional: bool = False,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
    nonempty: bool = False,
    repeated: bool = False,
    word: bool = False,
    aliases: tuple[str, ...] = (),
) -> Any:
    """Declare a flag of a command, for use in its dataclass.

    Args:
        help_text: One line for `--help`.
        default: Value without the flag; the flag is required where there is no default.
        positional: Whether the field takes the words that are not flags; for a tuple.
        least: Smallest allowed number; for a tuple, of each element.
        above: Exclusive lower limit.
        most: Greatest allowed number.
        below: Exclusive upper limit.
        within: Smallest and greatest allowed number, in place of `least` and `most`.
        nonempty: Whether a tuple without elements is refused.
        repeated: Whether the flag is given once for each element of a tuple, which may then hold
            anything; otherwise commas separate the elements.
        word: Whether a word without a flag gives it too: the object of the command.
        aliases: Earlier names of the field, which the command line still takes.
    """
    if within is not None:
        least, most = within
    bounds = Bounds(least, above, most, below)
    metadata = {
        "help": help_text,
        "positional": positional,
        "bounds": None if bounds == Bounds() else bounds,
        "nonempty": nonempty,
        "repeated": repeated,
        "word": word,
        "aliases": aliases,
    }
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Command:
    """The settings of one command, checked on creation.

    A subclass names the function that does the work instead of importing it:
    `class FitSettings(Command, does="train.classifier.stage1:fit")`; it takes the settings.
    A subclass with further checks calls `super().__post_init__()` first.
    """

    does: ClassVar[str] = ""

    def __init_subclass__(cls, *, does: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if does:
            cls.does = does

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check(item, getattr(self, item.name))

    def run(self) -> None:
        """Call the function; it raises a `GatekeeperError` for problems the user can fix."""
        resolve(self.does)(self)


def resolve(target: str) -> Callable[[Any], Any]:
    """Import and return the function named by `module:function`."""
    module, _, name = target.partition(":")
    return cast("Callable[[Any], Any]", getattr(importlib.import_module(module), name))


def check(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise a `SettingError` for a value outside the declared bounds, NaN, or an empty tuple."""
    if item.metadata.get("nonempty") and not value:
        raise SettingError(f"expected at least one value for {flag_name(item)}, got none")
    bounds: Bounds | None = item.metadata.get("bounds")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if bounds is not None and number not in bounds:
            raise SettingError(f"expected {flag_name(item)} {bounds}, got {number}")
        if math.isnan(number):
            raise SettingError(f"expected a number as {flag_name(item)}, got NaN")


def renamed(command: type[Command]) -> dict[str, str]:
    """Return the name of each field that has an earlier one, by the earlier name."""
    items = dataclasses.fields(command)
    return {old: item.name for item in items for old in item.metadata.get("aliases", ())}


def flag_name(item: dataclasses.Field[Any]) -> str:
    """Return a field's name on the command line: `--batch-size`, or `INPUTS` if positional."""
    if item.metadata.get("positional"):
        return item.name.upper()
    return f"--{item.name.replace('_', '-')}"
