"""Inputs take the way to the named server, whatever the environment says about proxies."""

import contextlib
import socket
import threading

import pytest

from edge_runtime import CloudModel, CloudUnavailableError

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "GRPC_ADDRESS_HTTP_PROXY")


class Listener:
    """Notes the first bytes of each connection and closes it."""

    def __init__(self):
        self.heard = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._socket.accept()
                with link:
                    link.settimeout(10)
                    self.heard.append(link.recv(100))

    def close(self):
        self._socket.close()


@pytest.fixture
def listeners():
    with contextlib.closing(Listener()) as server, contextlib.closing(Listener()) as proxy:
        yield server, proxy


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (*PROXIES, "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(port, **settings):
    # This address leads here, but does not count as loopback.
    opened = CloudModel.open(
        f"0.0.0.0:{port}", labels=("a", "b"), allow_plaintext=True, probe_s=None, **settings
    )
    with opened as cloud, pytest.raises(CloudUnavailableError):
        cloud.check(deadline_s=10)


@pytest.mark.parametrize("variable", PROXIES)
def test_a_proxy_of_the_environment_is_not_used(variable, listeners, monkeypatch):
    server, proxy = listeners
    value = f"127.0.0.1:{proxy.port}"
    monkeypatch.setenv(variable, value if variable.isupper() else f"http://{value}")
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "0.0.0.0/0")
    ask(server.port)
    assert proxy.heard == []
    assert server.heard[0].startswith(b"PRI * HTTP/2.0")


@pytest.mark.parametrize("variable", PROXIES[:3])
def test_a_proxy_of_the_environment_is_used_if_asked_for(variable, listeners, monkeypatch):
    server, proxy = listeners
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    ask(server.port, use_proxy=True)
    assert proxy.heard[0].startswith(b"CONNECT 0.0.0.0:")
    assert server.heard == []
