"""Classifiers of numbers as scikit-learn and its converter write them."""

import warnings

import numpy as np
from skl2onnx import to_onnx

NAMES = np.array(["setosa", "versicolor", "virginica"])


def flowers(rows=90, columns=4, classes=3, seed=0):
    """Return numbers float32 [rows, columns] and their classes int64 [rows]; all classes occur."""
    draws = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = 1.5 * draws.normal(size=(classes, columns))
    return (centres[labels] + draws.normal(size=(rows, columns))).astype(np.float32), labels


def write_table(model, path, *, x=None, y=None, types=None, opset=None, **options):
    """Fit a model on flowers, or on `x` and `y`, and write it as ONNX."""
    if x is None:
        x, labels = flowers()
        y = NAMES[labels] if y is None else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        last = model.steps[-1][1] if hasattr(model, "steps") else model
        first = None if types else x[:1]
        chosen = {id(last): options} if options else None
        graph = to_onnx(model, first, initial_types=types, options=chosen, target_opset=opset)
    path.write_bytes(graph.SerializeToString())
    return path
