"""Holds a bundle to the ONNX file it was made of, run by itself with a gate in numpy."""

import numpy as np
import onnxruntime as ort

from edge_runtime import metrics
from edge_runtime.edge_model import EdgeModel
from train.models import open_checkpoint


def run_alone(path, pixels, output):
    """Return what ONNX Runtime says of the original file, float64 [n, classes]."""
    session = ort.InferenceSession(path)
    (logits,) = session.run([output], {session.get_inputs()[0].name: pixels})
    return logits.astype(np.float64).reshape(len(logits), -1)


def pixels_of(checkpoint, digits):
    return open_checkpoint(checkpoint).pixel_values(digits).contiguous().numpy()


def assert_decides_like(bundle, path, pixels, digits, *, output="scores"):
    """Expect of a bundle, which takes pictures, what the file decides on the pixels of these."""
    logits = run_alone(path, pixels, output)
    model = EdgeModel.open(bundle)
    gated = model(digits)
    confidence = metrics.max_softmax(logits)
    np.testing.assert_array_equal(gated.prediction, logits.argmax(-1))
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
    clear = np.abs(confidence - model.threshold) > 1e-5
    np.testing.assert_array_equal(gated.defer[clear], (confidence < model.threshold)[clear])
