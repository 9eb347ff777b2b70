"""Every example in `examples/python` runs as its docstring says, against a real server."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import running_server
from edge_runtime import Cascade

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples" / "python"


@pytest.fixture(scope="module")
def address(large_checkpoint):
    with running_server(["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]) as it:
        yield it


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory):
    """Return ten pictures as files, by name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for place, picture in enumerate(pictures[:10]):
        Image.fromarray(picture).save(folder / f"{place}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def expected(bundle, address, files):
    with Cascade.open(bundle, cloud=address, deadline_s=20) as cascade:
        answers = cascade.batch(files)
    assert len({a.source for a in answers}) == 2
    return answers


def run(name, *words):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_script(bundle, address, files, expected):
    *lines, counts = run("script.py", bundle, address, *files)
    for line, file, answer in zip(lines, files, expected, strict=True):
        assert line.startswith(f"{file}: {answer.label} ({answer.source}, ")
    assert json.loads(counts)["answers"] == len(files)


def test_service(bundle, address, pictures, expected):
    service = subprocess.Popen(
        [sys.executable, EXAMPLES / "service.py", bundle, address],
        stdout=subprocess.PIPE,
        text=True,
    )
    with service, socket.create_connection(("127.0.0.1", int(service.stdout.readline()))) as link:
        talk = link.makefile("rw")
        for picture, answer in zip(pictures, expected, strict=False):
            talk.write(json.dumps({"picture": picture.tolist()}) + "\n")
            talk.flush()
            reply = json.loads(talk.readline())
            # The first calls may take longer than the service is ready to wait.
            assert reply["source"] in {answer.source, "edge_fallback"}
            assert reply["source"] == "edge_fallback" or reply["label"] == answer.label
        talk.write('{"picture": 5}\n')
        talk.flush()
        assert "expected uint8" in json.loads(talk.readline())["error"]
        talk.close()
        service.send_signal(signal.SIGTERM)
        counts = json.loads(service.stdout.readline())
    assert service.returncode == 0
    assert counts["answers"] == 10


def test_folder(bundle, address, files, expected):
    folder = files[0].parent
    (folder / "damaged.png").write_bytes(b"no picture")
    counts = json.loads(run("folder.py", bundle, address, folder, 1)[-1])
    results = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    (folder / "damaged.png").unlink()
    assert [r["file"] for r in results] == [*(f.name for f in files), "damaged.png"]
    assert "cannot be decoded" in results[-1]["error"]
    # A kilobyte is enough for some of the deferred pictures alone.
    assert {r.get("source") for r in results} == {"edge", "cloud", "edge_budget", None}
    for result, answer in zip(results, expected, strict=False):
        if result["source"] == answer.source:
            assert result["label"] == answer.label
    assert counts["answers"] == len(files)
    again = json.loads(run("folder.py", bundle, address, folder, 1)[-1])
    assert again["answers"] == 0


def test_three_models(bundle, address, files, expected):
    *lines, small, middle = run("three_models.py", bundle, bundle, address, *files)
    deferred = sum(answer.deferred for answer in expected)
    # The second gate is the same as the first, so it passes on what it is given.
    assert small == f"small: {len(files)} inputs, {deferred} deferred"
    assert middle == f"middle: {deferred} inputs, {deferred} deferred"
    for line, answer in zip(lines, expected, strict=True):
        assert line.endswith(f": {answer.label} ({answer.source})")
