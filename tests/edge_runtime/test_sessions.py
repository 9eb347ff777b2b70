"""A graph runs on the requested provider or not at all."""

import numpy as np
import onnxruntime as ort
import pytest

from edge_runtime import Cascade, EdgeModel, SettingError
from edge_runtime.__main__ import COMMANDS
from edge_runtime.cli import main
from edge_runtime.sessions import CPU, CUDA, require_started, select_providers

OFFERED = ort.get_available_providers()
without_cuda = pytest.mark.skipif(CUDA in OFFERED, reason="this onnxruntime offers CUDA")
with_cuda = pytest.mark.skipif(CUDA not in OFFERED, reason=f"onnxruntime offers only {OFFERED}")


@without_cuda
def test_cuda_is_refused_where_onnxruntime_lacks_it(bundle):
    with pytest.raises(SettingError) as refused:
        Cascade.open(bundle, providers=(CUDA, CPU))
    for words in (CUDA, *OFFERED, "gatekeeper-edge[gpu]"):
        assert words in str(refused.value)


@without_cuda
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_a_command_refuses_cuda_in_one_line(command, bundle, capsys):
    line = [command, "--bundle", str(bundle), "--provider", "cuda"]
    line += ["x.png"] * (command == "run")
    status = main("edge", COMMANDS, argv=line)
    out, error = capsys.readouterr()
    assert (status, error.count("\n")) == (1, 1), error
    assert "gatekeeper-edge[gpu]" in (out if command == "doctor" else error)


@pytest.mark.parametrize(
    ("providers", "words"),
    [((), "at least one execution provider"), (("CPU",), "an onnxruntime with CPU, version")],
)
def test_an_unknown_provider_is_refused(providers, words, bundle):
    with pytest.raises(SettingError, match=words):
        EdgeModel.open(bundle, providers=providers)


def test_a_session_that_runs_elsewhere_is_refused(bundle):
    # ONNX Runtime opens a CPU session where CUDA is offered but its driver is missing.
    session = EdgeModel.open(bundle).session
    with pytest.raises(SettingError, match=f"{CUDA}, it did not start and {CPU} took over"):
        require_started(session, [(CUDA, {}), (CPU, {})])


def test_options_of_a_provider_are_handed_on(bundle, pictures):
    model = EdgeModel.open(bundle, providers=((CPU, {"use_arena": "0"}),))
    assert model.session.get_providers() == [CPU]
    np.testing.assert_array_equal(
        model(pictures).prediction, EdgeModel.open(bundle)(pictures).prediction
    )


@pytest.mark.gpu
@with_cuda
def test_cuda_decides_as_the_cpu_does(bundle, pictures):
    cpu = EdgeModel.open(bundle)(pictures)
    model = EdgeModel.open(bundle, providers=select_providers("cuda"))
    cuda = model(pictures)
    np.testing.assert_array_equal(cuda.prediction, cpu.prediction)
    np.testing.assert_allclose(cuda.confidence, cpu.confidence, atol=1e-4)
    clear = np.abs(cpu.confidence - model.threshold) > 1e-4
    np.testing.assert_array_equal(cuda.defer[clear], cpu.defer[clear])


def test_a_misspelt_option_is_no_silent_default(bundle):
    with pytest.raises(TypeError, match="treshold"):
        Cascade.open(bundle, treshold=0.5)
    assert Cascade.open(bundle, allow_plaintext=True).cloud is None
