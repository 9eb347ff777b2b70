"""A gateway on a metered link: answers a folder of pictures within a byte budget.

    python examples/python/folder.py BUNDLE HOST:PORT FOLDER BUDGET_KB

Results go to FOLDER/answers.jsonl, one line per picture. Pictures listed there are skipped, so a
run that was interrupted continues where it stopped.
"""

import json
import sys
from concurrent.futures import Future
from pathlib import Path

from edge_runtime import (
    Answer,
    Cascade,
    DeferralBudget,
    DriftAlarm,
    InputError,
    Policy,
    SettingError,
)
from edge_runtime.bundle import read_bundle


def main(bundle: str, cloud: str, folder: Path, budget_kb: float) -> None:
    """Answer every picture that has no answer yet."""
    results = folder / "answers.jsonl"
    done = set()
    if results.exists():
        done = {json.loads(line)["file"] for line in results.read_text().splitlines()}
    waiting = [file for file in sorted(folder.glob("*.png")) if file.name not in done]
    policy = Policy(
        budget=DeferralBudget(max_bytes=int(budget_kb * 1000), window_s=86_400),
        drift=drift_alarm(bundle),
    )
    with (
        Cascade.open(bundle, cloud=cloud, deadline_s=2.0, policy=policy) as cascade,
        results.open("a") as output,
    ):
        futures = [(file, cascade.submit(file)) for file in waiting]
        for file, future in futures:
            output.write(json.dumps({"file": file.name, **result_of(future)}) + "\n")
        if policy.drift is not None and policy.drift.report is not None:
            print(policy.drift.report.text)
        print(cascade.stats.snapshot().as_json())


def drift_alarm(bundle: str) -> DriftAlarm | None:
    """Return a drift alarm, or None where the bundle was not calibrated."""
    try:
        return DriftAlarm.from_calibration(read_bundle(bundle).metadata)
    except SettingError as error:
        print(f"no drift alarm: {error}")
        return None


def result_of(future: Future[Answer]) -> dict[str, object]:
    """Return the fields to keep of an answer; an unreadable picture does not affect the others."""
    try:
        answer = future.result()
    except InputError as error:
        return {"error": str(error)}
    return {"label": answer.label, "source": answer.source, "error": answer.error}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
