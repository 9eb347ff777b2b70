"""`docs/faults.md` names tests that exist."""

import re

import pytest
from tools.faults import ROOT, sections


@pytest.mark.parametrize("fault", sections())
def test_every_fault_names_tests_that_exist(fault):
    assert sections()[fault], "no test keeps this fault mended"
    for test in sections()[fault]:
        file, name = test.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test
