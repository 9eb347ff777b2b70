"""`python -m train` as a user runs it: a mistake is one line and a status, and leaves nothing."""

import os
import signal
from functools import partial

import pytest
import torch
from tools import processes
from tools.processes import contents, has_loaded_torch, make_read_only, mounted, needs_proc

from edge_runtime.cli import main
from train.__main__ import COMMANDS
from train.models import build, open_checkpoint, save

pytestmark = pytest.mark.slow

start = partial(processes.start, "train")
refused = partial(processes.refused, "train")
refused_here = partial(processes.refused_here, "train", COMMANDS)

# Gatekeeper would warn that an untrained model has too little right to keep.
UNWARNED = ("--objective", "cross_entropy")
CONVERT = "--image-mean 0.5,0.5,0.5 --image-std 0.5,0.5,0.5"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "",
            "expected a command (fit, distill, tune, deferral-head, evaluate, evaluate-lm, sweep, "
            "recommend, convert, harvest, new-lm, convert-lm, fit-lm, tune-lm, tasks)",
        ),
        ("new-lm --out o", "either --task or --texts"),
        ("new-lm --out o --task t --architecture gemma3", "--architecture"),
        ("convert-lm --out o --weights w", "--tokenizer required"),
        ("ft --out o", "did you mean 'fit'"),
        ("fit --ouput o", "did you mean '--out'"),
        ("fit", "--out required"),
        ("fit --out o --epochs many", "--epochs expects a whole number, got 'many'"),
        ("fit --out o --precision half", "--precision expects one of auto, fp32, bf16, fp16"),
        (
            "fit --out o --augment flip",
            "--augment expects one of auto, none, shift, mirror, shift+mir",
        ),
        ("distill --out o", "--teacher required"),
        ("distill --teacher t --out o --weight 0 --unlabelled u", "--weight above 0 with"),
        ("distill --teacher h:1 --out o --temperature 4", "--temperature 1 or none with a server"),
        ("harvest --out o --labels-from d", "--records required"),
        ("harvest --records r --out o", "--labels-from required"),
        ("tune --checkpoint c --out o --objective ce", "gatekeeper, cross_entropy"),
        ("evaluate --checkpoint c --split tset", "train, validation, test, all"),
        (f"convert --weights w --model m --out o {CONVERT}", "either --labels a,b,... or --data"),
        (
            "convert --weights w --model m --labels a,b --out o --image-mean 0,0 --image-std 1,1,1",
            "three numbers for --image-mean",
        ),
    ],
)
def test_a_line_that_is_not_understood_is_status_2(line, says, capfd):
    refused_here(line.split(), capfd, status=2, says=says)


def test_a_process_ends_with_status_2():
    refused(["ft"], status=2, says="did you mean 'fit'")


class RunsCode:
    """What pickle would run while it loads."""

    def __init__(self, trace):
        self._trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self._trace),)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a folder of weight files, one of them right."""
    path = tmp_path_factory.mktemp("weights")
    right = build("resnet-20", labels=list("abc"), image_size=(8, 8)).model.state_dict()
    torch.save({"state_dict": right}, path / "right.pth")
    torch.save({"state_dict": {"a": RunsCode(path / "ran")}}, path / "code.pth")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, path / "foreign.pth")
    torch.save([1, 2], path / "list.pth")
    (path / "empty.pth").touch()
    (path / "short.pth").write_bytes((path / "right.pth").read_bytes()[:5000])
    (path / "garbage.safetensors").write_bytes(b"hello")
    return path


@pytest.mark.parametrize(
    ("file", "model", "labels", "says"),
    [
        ("missing.pth", "resnet-20", "a,b,c", "nothing is at"),
        ("empty.pth", "resnet-20", "a,b,c", "it ends too early"),
        ("short.pth", "resnet-20", "a,b,c", "it does not open"),
        ("garbage.safetensors", "resnet-20", "a,b,c", "it does not open"),
        ("code.pth", "resnet-20", "a,b,c", "can run code when loaded"),
        ("list.pth", "resnet-20", "a,b,c", "got a list"),
        ("foreign.pth", "resnet-20", "a,b,c", "weights are missing, e.g. stem.weight"),
        ("right.pth", "resnet-56", "a,b,c", "check --model"),
        ("right.pth", "resnet-21", "a,b,c", "expected one of small-cnn, resnet-20"),
        ("right.pth", "resnet-20", "a,b", "classifier.weight is [3, 64], not [2, 64]"),
    ],
)
def test_weights_that_do_not_convert_are_refused(
    file, model, labels, says, weights, tmp_path, capfd
):
    line = ["convert", "--weights", weights / file, "--model", model, "--labels", labels]
    refused_here([*line, *CONVERT.split(), "--out", tmp_path / "out"], capfd, says=says)
    assert not list(tmp_path.iterdir())
    assert not (weights / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("command", ["fit", "tune"])
def test_cuda_that_is_not_there_is_refused(command, small_checkpoint, tmp_path, capfd):
    start_from = [*UNWARNED, "--checkpoint", small_checkpoint] if command == "tune" else []
    refused_here(
        [command, *start_from, "--out", tmp_path / "o", "--device", "cuda"],
        capfd,
        says=["expected a CUDA device", "--device cpu"],
    )
    assert not list(tmp_path.iterdir())


def test_other_labels_and_missing_folders_are_refused(small_checkpoint, tmp_path, capfd):
    save(build("small-cnn", labels=["cat", "dog"], image_size=(8, 8)), tmp_path / "pets")
    out = ["--out", tmp_path / "out"]
    says = ["expected the 2 labels of", "digits has 10"]
    refused_here(["tune", "--checkpoint", tmp_path / "pets", *out], capfd, says=says)
    refused_here(["evaluate", "--checkpoint", tmp_path / "pets"], capfd, says=says)
    line = ["evaluate", "--checkpoint", small_checkpoint, "--large"]
    refused_here([*line, tmp_path / "pets"], capfd, says=says)
    refused_here([*line, tmp_path / "none"], capfd, says="nothing is at")
    refused_here(["tune", "--checkpoint", tmp_path / "none", *out], capfd, says="nothing is at")
    refused_here(["fit", "--model", "small-cn", *out], capfd, says="expected one of small-cnn")
    refused_here(["fit", "--data", tmp_path / "none", *out], capfd, says="nothing is there")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_taken_is_refused_before_the_work(small_checkpoint, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    line = ["tune", "--checkpoint", small_checkpoint, "--epochs", "100000", "--out"]
    refused_here([*line, tmp_path / "file"], capfd, says="a file is there")
    refused_here([*line, tmp_path / "folder"], capfd, says="--overwrite replaces it")
    assert contents(tmp_path) == before


def test_a_full_disk_is_said_and_leaves_no_checkpoint(small_checkpoint, weights, tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=100k") as disk:
        out = ["--out", disk / "out"]
        says = "no space is left in"
        line = ["tune", *UNWARNED, "--checkpoint", small_checkpoint, "--epochs", "2"]
        refused_here([*line, *out], capfd, says=says)
        assert not (disk / "out").exists()
        line = ["convert", "--weights", weights / "right.pth", "--model", "resnet-20"]
        refused_here([*line, "--labels", "a,b,c", *CONVERT.split(), *out], capfd, says=says)
        assert not (disk / "out").exists()


def test_a_disk_that_may_not_be_written_is_refused(small_checkpoint, tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        make_read_only(disk)
        says = "Read-only file system"
        line = ["--checkpoint", small_checkpoint, "--out"]
        tune = ["tune", *UNWARNED, *line, disk / "out", "--epochs", "1"]
        refused_here(tune, capfd, says=says)
        refused_here(["fit", "--out", disk / "out", "--epochs", "1"], capfd, says=says)
        refused_here(["evaluate", *line, disk / "out.json"], capfd, says=says)
        assert not list(disk.iterdir())


def train(*words):
    return main("python -m train", COMMANDS, argv=[str(word) for word in words])


@needs_proc
def test_ctrl_c_before_the_first_epoch_leaves_nothing(small_checkpoint, tmp_path):
    process = start("tune", "--checkpoint", small_checkpoint, "--out", tmp_path / "out")
    processes.wait_for(lambda: has_loaded_torch(process), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "python -m train: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_the_last_epoch_for_resume(small_checkpoint, tmp_path):
    out = tmp_path / "out"
    line = ["tune", *UNWARNED, "--checkpoint", small_checkpoint, "--out", out, "--epochs"]
    process = start(*line, "100000")
    work = tmp_path / ".out.training"
    processes.wait_for(lambda: list(work.glob("checkpoint-*/trainer_state.json")), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "python -m train: interrupted\n")
    assert not out.exists()
    assert train(*line, "40", "--resume") == 0
    assert open_checkpoint(out).labels == tuple("0123456789")


def test_kill_9_costs_no_finished_checkpoint(small_checkpoint, tmp_path):
    out = tmp_path / "out"
    line = ["tune", "--checkpoint", small_checkpoint, "--out", out, "--overwrite", "--epochs"]
    assert train(*line, "1") == 0
    before = contents(out)
    process = start(*line, "100000")
    work = tmp_path / ".out.training"
    processes.wait_for(lambda: list(work.glob("checkpoint-*")), process)
    process.kill()
    process.communicate(timeout=60)
    assert contents(out) == before
