"""Every term is defined once in docs/glossary.md, and linked where a page first uses it."""

import re

import pytest
from tools.processes import ROOT

from benchmarks.cascade.summary import STATISTICS

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ANCHORS = re.findall(r'<a id="([^"]+)"></a>', GLOSSARY)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = {
    "M_S": "m_s",
    "M_L": "m_l",
    "bundle": "bundle",
    "threshold": "threshold",
    "confidence": "confidence",
    "deferral ratio": "deferral-ratio",
    "joint accuracy": "joint-accuracy",
    "second look": "second-look",
    "AUROC": "auroc",
    "s_d": "s_d",
    "s_o": "s_o",
}
WORD = r"(?<![\w`/.-]){}(?![\w`/-]|\.\w)"


def prose(text):
    """Yield the lines that are sentences, without their spans of code."""
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.lstrip().startswith(("#", "|", ">", "```", "    ")):
            yield re.sub(r"`[^`]*`", "", line)


def test_a_term_has_one_definition():
    assert len(ANCHORS) == len(set(ANCHORS))
    assert set(LINKED.values()) <= set(ANCHORS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_the_glossary_leads_to_a_term(page):
    links = re.findall(r"glossary\.md#([\w-]+)", page.read_text(encoding="utf-8"))
    assert set(links) <= set(ANCHORS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_first_use_of_a_term_links_to_its_definition(page):
    if page.name == "glossary.md":
        return
    lines = list(prose(page.read_text(encoding="utf-8")))
    for term, anchor in LINKED.items():
        first = next((line for line in lines if re.search(WORD.format(term), line)), None)
        assert first is None or re.search(
            rf"\[[^]]*{term}[^]]*\]\([^)]*glossary\.md#{anchor}\)", first
        ), f"{page.name}: {first}"


def test_every_figure_of_a_report_is_in_the_glossary():
    for name in STATISTICS:
        term = re.sub(r" at \d+%", "", name).replace("under joint", "under the joint")
        assert term in GLOSSARY
