"""Token-level uncertainty of an answer: quantiles of its tokens' log-probabilities.

Gupta et al. 2024, "Language Model Cascades: Token-level uncertainty and beyond": the sum of the
log-probabilities grows with the length of an answer, the mean hides a single token that was
guessed; quantiles over the tokens keep both apart. The lowest is the least likely token.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LEVELS: Final = tuple(i / 10 for i in range(11))
"""From the least likely token to the likeliest, in tenths."""


def token_quantiles(logprob: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    """Return the quantiles at `LEVELS` of each answer, linear between two tokens.

    Args:
        logprob: Log-probabilities of the tokens, float64 [n, T].
        counted: Which tokens were generated, bool [n, T].

    Returns:
        float64 [n, Q]; NaN where no token was generated or one has none.
    """
    rows = np.full((len(logprob), len(LEVELS)), np.nan)
    for i, (values, flags) in enumerate(zip(logprob, counted, strict=True)):
        if flags.any() and not np.isnan(values[flags]).any():
            rows[i] = np.quantile(values[flags], LEVELS)
    return rows
