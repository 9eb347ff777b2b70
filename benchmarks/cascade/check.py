"""Checks result folders against their samples, and writes their pages anew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from benchmarks import figures
from benchmarks.cascade import report as cascade
from benchmarks.cascade import sweeps
from benchmarks.commands.cascade import CheckSettings, ReportSettings
from benchmarks.documents import Document
from benchmarks.errors import CheckError
from benchmarks.language.demo import report as language
from edge_runtime.errors import GatekeeperError

COMMITTED = Path(__file__).parents[1] / "results"


def check(settings: CheckSettings) -> None:
    """Recompute every figure; fail on the first that the samples do not give.

    Raises:
        CheckError: A figure or sentence differs, or there is no result folder.
    """
    folders = settings.folders or committed()
    if not folders:
        raise CheckError(f"expected a result folder, found none under {COMMITTED}: name one")
    for folder in folders:
        if folder.suffix == ".json":
            print(f"{folder}: {figures.check(folder)} figures, all verdicts correct")
            continue
        compared = sum(document.check() for document in _documents(folder))
        print(f"{folder}: {compared} figures recomputed, all as printed")


def report(settings: ReportSettings) -> None:
    """Write the sentences, pages and pictures of result folders anew, every figure kept.

    For a file of figures, print its table.

    Raises:
        CheckError: A figure is not what the samples give.
    """
    for folder in settings.folders:
        if folder.suffix == ".json":
            print(figures.table(folder))
            continue
        documents = list(_documents(folder))
        drawn = _kind(folder).draw(folder)
        for document in documents:
            document.renew()
        print(*(document.page for document in documents), *drawn, sep="\n")


def committed() -> tuple[Path, ...]:
    """Return the result folders of the repository, then its files of figures."""
    folders = sorted({path.parent for path in COMMITTED.glob("*/*samples*")})
    return (*folders, *filter(figures.holds_figures, sorted(COMMITTED.glob("*.json"))))


def _kind(folder: Path) -> ModuleType:
    """Return the module that knows the folder's kind: its `documents`, and how to `draw` it."""
    if sweeps.is_sweep(folder):
        return sweeps
    return language if language.is_language(folder) else cascade


def _documents(folder: Path) -> Iterable[Document]:
    try:
        yield from _kind(folder).documents(folder)
    except CheckError:
        raise
    except GatekeeperError as error:
        raise CheckError(f"{folder}: {error}") from None
    except KeyError as error:
        raise CheckError(f"{folder}: expected {error} in its results") from None
