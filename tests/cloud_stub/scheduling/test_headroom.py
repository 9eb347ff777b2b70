"""Under a limit of the system, calls get what fits beside the models."""

import asyncio
import collections
import itertools
import subprocess
import sys

import grpc
import pytest
from tools.processes import needs_proc

from cloud_stub.errors import LimitError
from cloud_stub.scheduling.headroom import CallLimits, headroom
from edge_runtime.wire import messages as pb

MIB = 1 << 20
ASKED = CallLimits(16, 1024)
CALLS = 5


def test_without_a_limit_nothing_is_lowered():
    assert ASKED.within(None) is ASKED


@pytest.mark.parametrize(
    ("left_mib", "message_mib", "memory_mib", "reads"),
    [(160, 1, 8, 4), (500, 11, 93, 4), (1200, 16, 268, 8), (100_000, 16, 1024, 780)],
)
def test_calls_get_a_part_of_what_is_left(left_mib, message_mib, memory_mib, reads):
    limits = ASKED.within(left_mib * MIB)
    assert (limits.message_mib, limits.memory_mib, limits.reads) == (message_mib, memory_mib, reads)
    assert limits.memory_mib * MIB + 2 * limits.reads * message_mib * MIB <= left_mib * MIB / 2


def test_too_little_is_refused():
    with pytest.raises(LimitError, match=r"^expected at least 160 MiB .* got 159: raise its limit"):
        ASKED.within(159 * MIB)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize("is_container", [False, True])
def test_the_nearest_limit_of_all_control_groups_counts(is_container, tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    name = "/../outside" if is_container else "/slice/unit"
    write(proc, cgroup=f"0::{name}")
    used = {"memory__current": 300 * MIB, "memory__stat": f"anon 1\ninactive_file {50 * MIB}"}
    write(groups, memory__max=900 * MIB, **used)
    assert headroom(proc, groups) == 650 * MIB
    write(groups / "slice", memory__max=700 * MIB, **used)
    write(groups / "slice" / "unit", memory__max="max", **used)
    assert headroom(proc, groups) == (650 if is_container else 450) * MIB


def test_the_first_version_of_control_groups_is_read(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc, cgroup="5:cpu:/a\n4:memory:/a")
    used = {"memory__usage_in_bytes": 300 * MIB, "memory__stat": f"total_inactive_file {MIB}"}
    write(groups / "memory", memory__limit_in_bytes=0x7FFFFFFFFFFFF000, **used)
    assert headroom(proc, groups) is None
    write(groups / "memory" / "a", memory__limit_in_bytes=900 * MIB, **used)
    assert headroom(proc, groups) == 601 * MIB


def start_limited(bundle, limit_mib):
    """Start a server that gets so much address space."""
    line = [sys.executable, "-m", "cloud_stub", "--bundle", str(bundle), "--port", "0"]
    # By the shell: between fork and exec, Python code may wait for ever for a thread of gRPC.
    return subprocess.Popen(
        ["sh", "-c", f'ulimit -v {limit_mib << 10}; exec "$@"', "sh", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def request(size):
    rows, side = 8, int((size / 24) ** 0.5)
    message = pb.ModelInferRequest(model_name="large")
    message.inputs.add(name="image", datatype="UINT8", shape=[rows, side, side, 3])
    message.raw_input_contents.append(bytes(rows * side * side * 3))
    return message.SerializeToString()


async def flood(address, data):
    """Return the statuses of calls that are sent at once, each over several connections."""

    async def call(number):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(address, options) as channel:
            infer = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
            calls = [infer(data, timeout=60) for _ in range(CALLS)]
            return [await one.code() for one in calls]

    codes = await asyncio.gather(*map(call, range(CALLS)))
    return collections.Counter(itertools.chain.from_iterable(codes))


@needs_proc
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("more_mib", [260, 460])
def test_a_flood_of_the_largest_calls_ends_no_process_under_a_limit(more_mib, bundle, server):
    # As much as the same server takes without any call, and some more.
    limit_mib = server.memory_bytes("VmSize") // MIB + more_mib
    with start_limited(bundle, limit_mib) as process:
        try:
            ready, log = process.stdout.readline(), process.stderr.readline()
            assert "lowered --max-memory-mib" in log
            largest = int(log.split()[-1]) * MIB
            codes = asyncio.run(flood(ready.split()[-1], request(largest - 1024)))
            assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


@needs_proc
@pytest.mark.slow
@pytest.mark.once
def test_a_server_with_too_little_memory_says_so(bundle, server):
    with start_limited(bundle, server.memory_bytes("VmSize") // MIB + 100) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("python -m cloud_stub: expected at least 160 MiB ")
    assert error.count("\n") == 1
