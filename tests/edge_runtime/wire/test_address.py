"""Addresses are parsed or refused, and loopback ones are recognised."""

from __future__ import annotations

import pytest

from edge_runtime.errors import SettingError
from edge_runtime.wire.address import is_loopback, join_address, split_address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost:8001", ("localhost", 8001)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_address_is_split_and_joined(text, parts):
    assert split_address(text) == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":8001", "localhost:", "localhost:0", "localhost:65536", "localhost:-1",
     "::1:8001", "http://localhost:8001", "[localhost]:1", "localhost:8 1"],
)  # fmt: skip
def test_other_forms_are_refused(text):
    with pytest.raises(SettingError, match="expected an address as HOST:PORT"):
        split_address(text)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.9.8.7", "::1"])
def test_loopback_hosts(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "localhost.example.org", "cloud"])  # noqa: S104
def test_other_hosts(host):
    assert not is_loopback(host)
