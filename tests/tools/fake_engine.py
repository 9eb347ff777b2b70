"""A process beside the decoder's that says what a test wants: other tokens, too few, or nothing."""

import sys
from functools import partial

from benchmarks.language.speed.answer_loop import Said, serve

KNOWN = [7, 8, 9]


def counts(request):
    print("a library speaks on standard output")
    return Said(KNOWN[: request.new_tokens])


def ends(request):
    sys.exit("the memory is full")


WAYS = {
    "counts": counts,
    "gated": lambda request: Said(KNOWN[: request.new_tokens], -2.0),
    "surer": lambda request: Said(KNOWN[: request.new_tokens], -1.999),
    "fewer": lambda request: Said(KNOWN[: request.new_tokens - 1]),
    "others": lambda request: Said([7, 8, 10][: request.new_tokens]),
    "ends": ends,
}

if __name__ == "__main__":
    serve(partial(dict, WAYS), "numpy")
