"""An engine's process that answers as a test wants: other tokens, too few, or none."""

import sys
from functools import partial

from benchmarks.language.speed.answer_loop import Output, serve

KNOWN = [7, 8, 9]


def counts(request):
    print("a library speaks on standard output")
    return Output(KNOWN[: request.new_tokens])


def ends(request):
    sys.exit("the memory is full")


MODES = {
    "counts": counts,
    "gated": lambda request: Output(KNOWN[: request.new_tokens], -2.0),
    "surer": lambda request: Output(KNOWN[: request.new_tokens], -1.999),
    "fewer": lambda request: Output(KNOWN[: request.new_tokens - 1]),
    "others": lambda request: Output([7, 8, 10][: request.new_tokens]),
    "ends": ends,
}

if __name__ == "__main__":
    serve(partial(dict, MODES), "numpy")
