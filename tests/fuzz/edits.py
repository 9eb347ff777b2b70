"""Edits of valid seeds that a fuzzer chooses, and the figures of a run.

A seed passes its reader, so that a few edits reach the checks behind the first one.
"""

import copy
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import atheris

from edge_runtime.errors import GatekeeperError
from edge_runtime.files import one_line

SCRATCH = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")  # noqa: S108 - no disk
_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    64,
    1 << 31,
    1 << 63,
    -(1 << 63),
    1 << 80,
    10**400,
]
_VALUES += [
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": 0},
    "",
    "a",
    "..",
    "\0",
]
_VALUES += ["x" * 3000, "é", "\ud800", "\x1b[2J\n", "__class__", "/dev/zero", "9**9**9", "[" * 2000]
_NUMBERS = [0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1]
_SHOWN_EVERY = 50_000
_FURTHER = 256


def _child(value: Any, given: atheris.FuzzedDataProvider) -> Any:
    """Return the key of one child, or None in a leaf."""
    if not isinstance(value, dict | list) or not value:
        return None
    at = given.ConsumeIntInRange(0, len(value) - 1)
    return at if isinstance(value, list) else list(value)[at]


def _place(value: Any, given: atheris.FuzzedDataProvider) -> tuple[Any, Any]:
    """Return a holder within a value and a key in it."""
    key = _child(value, given)
    while (deeper := _child(value[key], given)) is not None and given.ConsumeIntInRange(0, 5):
        value, key = value[key], deeper
    return value, key


def edit_json(seed: str, given: atheris.FuzzedDataProvider, words: Sequence[Any] = ()) -> Any:
    """Return the value of a JSON text with up to four edits, some of which put in `words`."""
    root = [json.loads(seed)]
    for _ in range(given.PickValueInList([1, 1, 1, 2, 4])):
        holder, key = _place(root, given)
        _edit(root, holder, key, given, words)
        if not root:
            return None
    return root[0]


def _edit(
    root: list[Any], holder: Any, key: Any, given: atheris.FuzzedDataProvider, words: Sequence[Any]
) -> None:
    way = given.ConsumeIntInRange(0, 5)
    if way == 0:
        holder[key] = copy.deepcopy(given.PickValueInList(_VALUES))
    elif way == 1 and words:
        holder[key] = copy.deepcopy(given.PickValueInList(words))
    elif way == 2:
        source, other = _place(root, given)
        holder[key] = copy.deepcopy(source[other])
    elif way == 3:
        del holder[key]
    elif way == 4 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif isinstance(holder[key], str):
        word = given.PickValueInList(words) if words and given.ConsumeBool() else None
        holder[key] = edit_text(holder[key], given, word if isinstance(word, str) else None)
    elif isinstance(holder[key], int):
        holder[key] += given.ConsumeInt(given.ConsumeIntInRange(1, 8))
    elif isinstance(holder, dict):
        holder[given.ConsumeUnicode(9)] = holder.pop(key)


def edit_text(text: str, given: atheris.FuzzedDataProvider, word: str | None = None) -> str:
    """Return a text with a word, or other characters, in place of some of its own."""
    begin = given.ConsumeIntInRange(0, len(text))
    end = begin + given.ConsumeIntInRange(0, 8)
    return text[:begin] + (given.ConsumeUnicode(8) if word is None else word) + text[end:]


def edit_bytes(content: bytes, given: atheris.FuzzedDataProvider, first: int = 0) -> bytes:
    """Return bytes with up to four edits from the place `first` on."""
    for _ in range(given.PickValueInList([1, 1, 2, 4])):
        begin = given.ConsumeIntInRange(min(first, len(content)), len(content))
        way = given.ConsumeIntInRange(0, 4)
        if way == 0:  # a byte
            fresh, gone = given.ConsumeBytes(1), 1
        elif way == 1:  # a number of a header
            size = given.PickValueInList([1, 2, 4, 8])
            number = given.PickValueInList(_NUMBERS) % (1 << 8 * size)
            fresh, gone = number.to_bytes(size, "little"), size
        elif way == 2:  # others of another length
            fresh, gone = given.ConsumeBytes(8), given.ConsumeIntInRange(0, 8)
        elif way == 3:  # a part once more
            fresh, gone = content[begin : begin + given.ConsumeIntInRange(0, 300)], 0
        else:
            fresh, gone = b"", given.ConsumeIntInRange(0, 300)
        content = content[:begin] + fresh + content[begin + gone :]
    return content


class Reader:
    """Runs one input after the other, and shows the share that the reader took.

    Args:
        read: Reads one input. It returns whether it was taken, or a refusal's stage; a
            `GatekeeperError` is a refusal.
        slow: Seconds of CPU that no input may take.
    """

    def __init__(self, read: Callable[[atheris.FuzzedDataProvider], str], slow: float = 20) -> None:
        self._read, self._slow = read, slow
        self._counts: Counter[str] = Counter()
        self._began = time.process_time()

    def __call__(self, content: bytes) -> None:
        """Read one input; any error but a refusal on one line is a find."""
        began = time.process_time()
        try:
            # libFuzzer likes its inputs short: numbers are taken from the end, then from these.
            further = hashlib.shake_128(content).digest(_FURTHER)
            outcome = self._read(atheris.FuzzedDataProvider(further + content))
        except GatekeeperError as error:
            outcome = f"refused, {type(error).__name__}"
            if not one_line(error).isprintable():  # what a user sees
                raise AssertionError from error
        # Of the processor: on a busy machine an input waits, and libFuzzer's own limit means that.
        assert time.process_time() - began < self._slow
        self._counts[outcome] += 1
        if (total := self._counts.total()) % _SHOWN_EVERY == 0:
            rate = total / (time.process_time() - self._began)
            shares = ", ".join(f"{n / total:.1%} {what}" for what, n in self._counts.most_common())
            print(
                f"{total} inputs, {rate:.0f} per second of CPU: {shares}",
                file=sys.stderr,
                flush=True,
            )


def fuzz(read: Callable[[atheris.FuzzedDataProvider], str], **options: int) -> None:
    """Run libFuzzer with the options of the command line, after those given here."""
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, *sys.argv[1:]], Reader(read))
    atheris.Fuzz()
