"""What a prompt or a notebook shows of an object: its name and a few facts."""

from __future__ import annotations

import html
from collections.abc import Mapping

from edge_runtime.files import SHOWN, clean

Facts = Mapping[str, str | float]


def line(name: str, facts: Facts) -> str:
    """Return an object's name and facts on one line."""
    shown = (f"{key}={_number(fact) or repr(fact)}" for key, fact in facts.items())
    return f"{name}({', '.join(shown)})"


def table(facts: Facts) -> str:
    """Return facts as an HTML table."""
    cells = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(_text(fact))}</td></tr>"
        for key, fact in facts.items()
    )
    return f"<table>{cells}</table>"


def _text(fact: str | float) -> str:
    return _number(fact) or clean(str(fact), SHOWN)


def _number(fact: str | float) -> str:
    return "" if isinstance(fact, str) else f"{fact:.4g}"
