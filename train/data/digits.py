"""The built-in data set: scikit-learn's handwritten digits (1,797 real pictures of 8x8 pixels)."""

from __future__ import annotations

import numpy as np

from train.data.labelled import LabelledData, Splits, split_stratified

TRAIN_SHARE = 0.05
MORE_SHARE = 0.35
VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0  # one split for every training seed, so that runs are compared on the same test
_BRIGHTEST = 16


def load_built_in(*, more: bool = False) -> Splits:
    """Return the digits as RGB pictures.

    The set is easy: with the usual 80 % to train on, a SmallCNN makes about one error in a hundred,
    too few to measure deferral with. So `digits` trains on 5 % (91 pictures), validates and
    calibrates on 20 % and tests on the rest. On so few pictures no model is better than the
    SmallCNN; an M_L worth asking trains on `digits-more`: the same and more, 35 % of the set, with
    the same validation and test pictures.

    Args:
        more: Return the larger training split.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    data = LabelledData(
        list(np.repeat(grey[..., None], 3, axis=-1)),
        labels,
        tuple(f"digits-{i}" for i in range(len(labels))),
        tuple(str(name) for name in digits.target_names),
    )
    pool, rest = split_stratified(labels, MORE_SHARE, _SPLIT_SEED)
    few, _ = split_stratified(labels[pool], TRAIN_SHARE / MORE_SHARE, _SPLIT_SEED + 1)
    inner, outer = split_stratified(
        labels[rest], VALIDATION_SHARE / (1 - MORE_SHARE), _SPLIT_SEED + 2
    )
    train = pool if more else pool[few]
    return Splits(data.take(train), data.take(rest[inner]), data.take(rest[outer]))
