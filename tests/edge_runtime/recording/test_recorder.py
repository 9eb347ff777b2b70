"""A recorder keeps the deferred inputs that the cloud answered, within its limit; nothing that
happens to its folder affects the answers."""

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools.processes import make_read_only, mounted

from edge_runtime import (
    Cascade,
    InputError,
    Record,
    Recorder,
    SettingError,
    Source,
    read_records,
)
from edge_runtime.commands.run import RunSettings
from edge_runtime.inputs.pictures import read_input
from edge_runtime.recording.recorder import encode

BLOCK = 4096
RECORD = Record(
    model="large",
    label="cat",
    confidence=0.75,
    small_label="dog",
    small_confidence=0.5,
    threshold=0.625,
)


def add_all(recorder, arrays, record=RECORD):
    for array in arrays:
        recorder.add(array, record)
    recorder.close()


def wait_until(condition):
    while not condition():
        time.sleep(0.001)


def files(folder):
    return sorted(p for p in folder.iterdir() if p.name != "records.jsonl")


@pytest.mark.slow
def test_deferred_inputs_that_the_cloud_answered_are_recorded_without_loss(
    bundle, address, pictures, tmp_path
):
    recorder = Recorder(tmp_path / "recorded")
    with Cascade.open(bundle, cloud=address, deadline_s=20, record=recorder) as cascade:
        answers = cascade.batch(pictures)
        # A cloud that does not answer teaches nothing.
        cascade.cloud.close()
        assert {a.source for a in cascade.batch(pictures)} == {Source.EDGE, Source.EDGE_FALLBACK}
        gated = cascade.edge(pictures)
    deferred = [row for row, a in enumerate(answers) if a.source is Source.CLOUD]
    found = read_records(tmp_path / "recorded")
    assert (recorder.recorded, recorder.dropped, found.damaged) == (len(deferred), 0, 0)
    assert len(found.entries) == len(deferred) == len(files(tmp_path / "recorded"))
    for row, record in zip(deferred, found.entries, strict=True):
        kept = read_input(tmp_path / "recorded" / record.file)
        np.testing.assert_array_equal(kept, pictures[row])
        assert record.file.endswith(".png")
        assert record.label == answers[row].label
        assert record.small_label == str(gated.prediction[row])
        assert record.small_confidence == gated.confidence[row]
        assert record.threshold == cascade.edge.threshold > record.small_confidence
        assert 0.1 <= record.confidence <= 1
        assert record.model == "large"


def test_a_cascade_without_a_recorder_writes_nothing(bundle, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Cascade.open(bundle, cloud="127.0.0.1:9", threshold=2.0, deadline_s=1) as cascade:
        cascade(pictures[0])
    assert not list(tmp_path.iterdir())


def test_other_users_cannot_read_the_recordings(pictures, tmp_path):
    add_all(Recorder(tmp_path / "a" / "recorded"), pictures[:2])
    folder = tmp_path / "a" / "recorded"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}


def test_an_input_that_is_not_a_picture_is_kept_as_an_array(generator, tmp_path):
    array = generator.normal(size=(3, 8, 8)).astype(np.float32)
    add_all(Recorder(tmp_path), [array])
    (record,) = read_records(tmp_path).entries
    assert record.file.endswith(".npy")
    np.testing.assert_array_equal(read_input(tmp_path / record.file), array)


def test_a_picture_is_kept_where_pillow_is_missing(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    suffix, content = encode(pictures[0])
    # 64 pixels of 3 bytes behind numpy's header, which is a multiple of 64 bytes.
    assert suffix == ".npy"
    assert len(content) == 128 + 64 * 3


def test_the_input_may_be_overwritten_after_the_answer(tmp_path):
    recorder, array = Recorder(tmp_path), np.full((4, 4, 3), 7, np.uint8)
    recorder.add(array, RECORD)
    array[:] = 0
    recorder.close()
    (record,) = read_records(tmp_path).entries
    assert (read_input(tmp_path / record.file) == 7).all()


def test_numbers_that_json_lacks_are_null(tmp_path):
    odd = {"confidence": float("nan"), "threshold": float("inf")}
    record = Record(model="m", label="é", small_label="b", small_confidence=0.25, **odd)
    add_all(Recorder(tmp_path), [np.zeros((2, 2, 3), np.uint8)], record)
    line = json.loads((tmp_path / "records.jsonl").read_text(encoding="utf-8"))
    assert (line["confidence"], line["threshold"], line["label"]) == (None, None, "é")
    (found,) = read_records(tmp_path).entries
    assert np.isnan(found.confidence)
    assert found.small_confidence == 0.25


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        # A block for the lines, one a picture.
        ({"max_bytes": 6 * BLOCK}, 5),
        ({"max_bytes": 6 * BLOCK - 1}, 4),
        ({"max_inputs": 3}, 3),
    ],
)
def test_recording_stops_at_its_limit_with_one_warning(bounds, kept, pictures, tmp_path, caplog):
    recorder = Recorder(tmp_path, **bounds)
    add_all(recorder, pictures[:9])
    assert (recorder.recorded, recorder.dropped) == (kept, 9 - kept)
    assert len(read_records(tmp_path).entries) == len(files(tmp_path)) == kept
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "limit is reached" in caplog.text


def test_a_restart_continues_within_the_same_limit(pictures, tmp_path):
    for _ in range(3):
        recorder = Recorder(tmp_path, max_inputs=5)
        add_all(recorder, pictures[:2])
    assert (recorder.recorded, recorder.dropped) == (1, 1)
    assert len(read_records(tmp_path).entries) == 5
    blocked = Recorder(tmp_path, max_bytes=6 * BLOCK)
    add_all(blocked, pictures[:1])
    assert (blocked.recorded, blocked.dropped) == (0, 1)


def test_a_lowered_limit_holds(pictures, tmp_path):
    add_all(Recorder(tmp_path), pictures[:5])
    recorder = Recorder(tmp_path, max_inputs=3)
    add_all(recorder, pictures[5:7])
    assert (recorder.recorded, recorder.dropped) == (0, 2)


def test_a_large_batch_is_recorded_whole(tmp_path):
    recorder = Recorder(tmp_path)
    add_all(recorder, np.zeros((1000, 8, 8, 3), np.uint8))
    assert (recorder.recorded, recorder.dropped) == (1000, 0)


def test_without_another_thread_only_the_input_is_dropped(pictures, tmp_path, monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    recorder = Recorder(tmp_path)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", refuse)
        recorder.add(pictures[0], RECORD)
    add_all(recorder, pictures[1:3])
    assert (recorder.recorded, recorder.dropped) == (2, 1)
    assert caplog.text.count("can't start new thread") == 1


def test_a_line_cut_off_by_a_kill_affects_no_other(pictures, tmp_path):
    add_all(Recorder(tmp_path), pictures[:3])
    lines = tmp_path / "records.jsonl"
    lines.write_bytes(lines.read_bytes()[:-30])
    found = read_records(tmp_path)
    assert (len(found.entries), found.damaged) == (2, 1)
    add_all(Recorder(tmp_path), pictures[3:5])
    found = read_records(tmp_path)
    assert (len(found.entries), found.damaged) == (4, 1)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"file": "a.png"}',
        RECORD.to_line().replace(b'"file": ""', b'"file": "../a.png"'),
        RECORD.to_line().replace(b"0.75", b'"high"'),
        RECORD.to_line().replace(b"0.75", b"1" * 400),
        RECORD.to_line().replace(b'"cat"', b"7"),
    ],
)
def test_a_line_that_is_not_a_record_is_skipped_and_counted(line, tmp_path):
    (tmp_path / "records.jsonl").write_bytes(line.rstrip(b"\n") + b"\n" + RECORD.to_line())
    found = read_records(tmp_path)
    assert (len(found.entries), found.damaged) == (1, 1)


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected records\.jsonl in"):
        read_records(tmp_path)


def test_threads_share_a_recorder(pictures, tmp_path):
    recorder = Recorder(tmp_path)

    def add():
        for picture in pictures[:20]:
            recorder.add(picture, RECORD)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    found = read_records(tmp_path)
    assert (recorder.recorded, recorder.dropped, found.damaged) == (80, 0, 0)
    assert len({record.file for record in found.entries}) == 80


def test_inputs_that_come_faster_than_the_disk_are_counted(
    generator, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("edge_runtime.recording.recorder._MAX_QUEUED_BYTES", 8 << 20)
    recorder = Recorder(tmp_path, max_bytes=1 << 30)
    # 8 MiB may wait, which is two of 3 MiB; noise takes the writer longest.
    large = generator.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    add_all(recorder, [large] * 6)
    assert recorder.recorded + recorder.dropped == 6
    assert 2 <= recorder.recorded < 6
    assert "faster than they can be written" in caplog.text


def test_two_processes_do_not_share_a_folder(pictures, tmp_path, caplog):
    first, second = Recorder(tmp_path), Recorder(tmp_path)
    first.add(pictures[0], RECORD)
    wait_until(lambda: first.recorded)
    add_all(second, pictures[:2])
    assert (second.recorded, second.dropped) == (0, 2)
    assert "another process records there" in caplog.text
    first.close()
    assert len(read_records(tmp_path).entries) == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_affects_no_answer(
    bundle, address, pictures, tmp_path, caplog
):
    (tmp_path / "file").write_text("mine")
    recorder = Recorder(tmp_path / "file" / "recorded")
    with Cascade.open(
        bundle, cloud=address, deadline_s=20, threshold=2.0, record=recorder
    ) as cascade:
        answers = [cascade(picture) for picture in pictures[:4]]
    assert {a.source for a in answers} == {Source.CLOUD}
    assert (recorder.recorded, recorder.dropped) == (0, 4)
    assert len(caplog.records) == 1
    assert "Not a directory" in caplog.text


def test_a_full_disk_leaves_whole_records_and_recording_resumes_with_free_space(
    generator, tmp_path, caplog
):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        (disk / "other").write_bytes(bytes(32 << 10))
        noise = generator.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)  # 12 KiB each
        recorder = Recorder(disk / "recorded")
        for picture in noise[:9]:
            recorder.add(picture, RECORD)
        wait_until(lambda: recorder.recorded + recorder.dropped == 9)
        assert recorder.recorded in {1, 2}
        (disk / "other").unlink()
        add_all(recorder, noise[9:])
        found = read_records(disk / "recorded")
        assert (len(found.entries), found.damaged) == (recorder.recorded, 0)
        assert len(files(disk / "recorded")) == recorder.recorded
        np.testing.assert_array_equal(
            read_input(disk / "recorded" / found.entries[-1].file), noise[9]
        )
    assert caplog.text.count("No space left on device") == 1


def test_a_read_only_disk_is_logged_once(pictures, tmp_path, caplog):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        make_read_only(disk)
        recorder = Recorder(disk / "recorded")
        add_all(recorder, pictures[:3])
    assert (recorder.recorded, recorder.dropped) == (0, 3)
    assert caplog.text.count("Read-only file system") == 1


def test_inputs_after_the_end_are_counted(pictures, tmp_path):
    recorder = Recorder(tmp_path)
    recorder.close()
    recorder.add(pictures[0], RECORD)
    assert (recorder.recorded, recorder.dropped) == (0, 1)


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"max_inputs": 0}])
def test_a_limit_below_1_is_refused(bounds, tmp_path):
    with pytest.raises(SettingError, match="at least 1, got 0"):
        Recorder(tmp_path, **bounds)


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="is a file"):
        Recorder(tmp_path / "file")


ENDLESS = """
import sys, numpy as np
from edge_runtime import Record, Recorder
record = Record(model="m", label="a", confidence=1.0, small_label="b", small_confidence=0.5,
                threshold=0.6)
recorder = Recorder(sys.argv[1])
picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
for number in range(int(sys.argv[2])):
    while recorder.recorded < number - 9:
        pass
    recorder.add(picture, record)
    print(number, flush=True)
"""


def recording(folder, count):
    line = [sys.executable, "-c", ENDLESS, str(folder), str(count)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_9_leaves_a_folder_that_can_be_read_and_continued(pictures, tmp_path):
    with recording(tmp_path, 1_000_000) as process:
        while int(process.stdout.readline()) < 50:
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL
    found = read_records(tmp_path)
    assert len(found.entries) >= 40
    assert found.damaged <= 1
    for record in found.entries:
        assert read_input(tmp_path / record.file).shape == (32, 32, 3)
    add_all(Recorder(tmp_path), pictures[:1])
    assert len(read_records(tmp_path).entries) == len(found.entries) + 1


@pytest.mark.slow
def test_a_program_that_ends_without_closing_keeps_its_records(tmp_path):
    with recording(tmp_path, 5) as process:
        process.communicate()
    assert process.returncode == 0
    assert len(read_records(tmp_path).entries) == 5


@pytest.mark.slow
def test_run_records_and_prints_the_numbers(bundle, address, pictures, tmp_path, capsys, caplog):
    for number, picture in enumerate(pictures[:6]):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    # 20,500 bytes are five blocks of 4,096: the lines and four pictures.
    record = {"record": tmp_path / "recorded", "record_limit_mb": 0.0205}
    cloud = {"cloud": (address,), "deadline_s": 20.0, "threshold": 2.0}
    inputs = tuple(sorted(tmp_path.glob("*.png")))
    RunSettings(bundle=bundle, inputs=inputs, **cloud, **record).run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["cloud 6", f"recorded 4, dropped 2 in {tmp_path}/recorded"]
    assert caplog.text.count("limit is reached") == 1
    assert len(read_records(tmp_path / "recorded").entries) == 4


def test_a_recording_without_a_cloud_is_refused():
    with pytest.raises(SettingError, match="--record needs --cloud"):
        RunSettings(bundle=Path("b"), inputs=(Path("x.png"),), record=Path("r"))


def test_records_are_on_the_disk_when_the_recorder_closes(monkeypatch, pictures, tmp_path):
    recorder = Recorder(tmp_path / "r")
    synced, sync = [], os.fsync

    def note(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    recorder.add(pictures[0], RECORD)
    wait_until(lambda: recorder.recorded == 1)
    assert not synced
    recorder.close()
    assert {p.stat().st_ino for p in [tmp_path / "r", *(tmp_path / "r").iterdir()]} == set(synced)
