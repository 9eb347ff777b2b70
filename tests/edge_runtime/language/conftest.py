import pytest
from tools.adding_decoder import Adder, write_adder

from edge_runtime.language.decoder import Decoder


@pytest.fixture(scope="session")
def speaker(spoken_bundle):
    return Decoder.open(spoken_bundle, threads=1)


@pytest.fixture(scope="session")
def adder():
    """A random language model."""
    return Adder.random(0)


@pytest.fixture(scope="session")
def decoder(adder, tmp_path_factory):
    return Decoder.open(write_adder(tmp_path_factory.mktemp("adder"), adder), threads=1)
