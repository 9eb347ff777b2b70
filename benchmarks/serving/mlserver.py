"""MLServer as a peer: writes its model repositories, and runs it as a real process on loopback.

write_repository(folder, onnx_file, threads=1)
with MLServer(folder) as server:
...  # gRPC at server.address
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.errors import ServerStartError
from benchmarks.processes import ChildProcess
from edge_runtime.reading import read_json
from edge_runtime.wire import messages as pb

EXECUTABLE: Final = Path(__file__).parents[2] / ".venv-mlserver" / "bin" / "mlserver"
"""MLServer's own environment, made by `make .venv-mlserver/.installed`."""
_RUNTIME: Final = Path(__file__).with_name("mlserver_runtime.py")
_LOG: Final = "mlserver.log"
_SETTINGS: Final = "settings.json"


def write_repository(
    folder: Path,
    onnx_file: Path,
    *,
    model: str = "mlp",
    threads: int = 1,
    max_batch_size: int = 0,
    max_batch_time_s: float = 0.0,
    workers: int = 0,
) -> None:
    """Write a new folder from which MLServer serves one ONNX file under the graph's own names.

    Args:
        folder: A folder that does not exist yet.
        onnx_file: The file to serve.
        model: The model's name on the server.
        threads: Threads of ONNX Runtime.
        max_batch_size: Most requests that MLServer merges into one; 0 switches batching off.
        max_batch_time_s: Longest wait for these requests, in seconds.
        workers: Separate processes that run the model; 0 runs it in the server's own.
    """
    place = folder / model
    place.mkdir(parents=True)
    shutil.copy(onnx_file, place / "model.onnx")
    shutil.copy(_RUNTIME, place)
    settings = {"max_batch_size": max_batch_size, "max_batch_time": max_batch_time_s}
    write_model(
        place,
        f"{_RUNTIME.stem}.OnnxRuntime",
        parameters={"uri": "./model.onnx", "extra": {"threads": threads}},
        **settings,
    )
    write_settings(folder, workers=workers)


def write_model(place: Path, implementation: str, **settings: Any) -> None:
    """Write one model's settings into its folder, whose name is the model's.

    Args:
        place: Folder with the runtime's module and the model's file.
        implementation: `MODULE.CLASS` of the runtime.
        settings: Other fields of MLServer's `ModelSettings`.
    """
    content = {"name": place.name, "implementation": implementation, **settings}
    _write(place / "model-settings.json", content)


def write_settings(folder: Path, *, workers: int = 0, **settings: Any) -> None:
    """Write the server's settings: a free port of loopback for gRPC, no metrics, no access log.

    Args:
        folder: The repository.
        workers: Separate processes that run the models; 0 runs them in the server's own.
        settings: Other fields of MLServer's `Settings`, or other values for these.
    """
    content = {
        "host": "127.0.0.1",
        "grpc_port": _free_port(),
        "http_port": 0,  # HTTP cannot be switched off: any free port of loopback
        "metrics_endpoint": None,
        "parallel_workers": workers,
        "debug": False,
        **settings,
    }
    _write(folder / _SETTINGS, content)


class MLServer(ChildProcess):
    """`mlserver start FOLDER` as a process that can be killed and started again at its address.

    Args:
        folder: Folder that `write_repository` wrote; the log goes there too.
        ready_timeout_s: Longest wait until all of its models are ready, in seconds.
    """

    def __init__(self, folder: Path, *, ready_timeout_s: float = 120.0) -> None:
        super().__init__()
        settings = read_json(folder / _SETTINGS)
        self.address = f"{settings['host']}:{settings['grpc_port']}"
        self.models = sorted(file.parent.name for file in folder.rglob("model-settings.json"))
        self._folder = folder
        self._ready_timeout_s = ready_timeout_s

    def start(self) -> None:
        """Start the server and wait until every model is ready.

        Raises:
            ServerStartError: It is not installed, it ended, or a model was not ready in time.
        """
        if not EXECUTABLE.exists():
            raise ServerStartError(
                f"expected MLServer at {EXECUTABLE}, got none: make .venv-mlserver/.installed"
            )
        # The caller's shell may hold settings for another MLServer.
        env = {key: value for key, value in os.environ.items() if not key.startswith("MLSERVER_")}
        with (self._folder / _LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [EXECUTABLE, "start", self._folder.absolute()],
                cwd=self._folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await_models()

    def _await_models(self) -> None:
        until = time.monotonic() + self._ready_timeout_s
        while not _are_ready(self.address, self.models):
            assert self._process is not None  # noqa: S101 - narrows the type
            if self._process.poll() is not None:
                raise ServerStartError(f"MLServer did not start: {self._last_line()}")
            if time.monotonic() > until:
                raise ServerStartError(
                    f"MLServer was not ready within {self._ready_timeout_s:g} s: "
                    f"{self._last_line()}"
                )
            time.sleep(0.05)

    def _last_line(self) -> str:
        log = self._folder / _LOG
        # A model that fails to load is followed by the server's farewell.
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["no message"])[-1].strip() + f" (see {log})"


def _are_ready(address: str, models: Iterable[str]) -> bool:
    # A new channel each time: after a refusal, a channel waits longer and longer.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(pb.METHODS["ModelReady"], None, None)
        try:
            return all(
                pb.ModelReadyResponse.FromString(
                    call(pb.ModelReadyRequest(name=model).SerializeToString(), timeout=5)
                ).ready
                for model in models
            )
        except grpc.RpcError:  # not up yet, or MLServer is still loading the model
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _write(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
