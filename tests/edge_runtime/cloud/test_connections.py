"""A replaced connection ends with its last call, and not before."""

import threading

import grpc
import pytest
from tools.foreign_texts import picky_server
from tools.prompts import prompts_request

from edge_runtime.cloud.connection import Connections

pytestmark = pytest.mark.slow


@pytest.fixture
def server():
    with picky_server("bad", pause_s=0.3) as running:
        yield running


def test_a_call_on_a_connection_that_was_replaced_twice_is_answered(server):
    connections = Connections(grpc.insecure_channel(server.address))
    connection = connections.acquire()
    call = connection.infer.future(prompts_request("good"), timeout=30)
    for _ in range(2):
        assert connections.replace(grpc.insecure_channel(server.address))
    assert call.result()
    connections.release(connection)
    with pytest.raises(ValueError, match="closed channel"):
        connection.infer(prompts_request("good"), timeout=30)
    other = connections.acquire()
    assert other.infer(prompts_request("good"), timeout=30)
    connections.close()


def test_closing_ends_the_calls_on_all_connections(server):
    connections = Connections(grpc.insecure_channel(server.address))
    calls = []
    for _ in range(2):
        calls.append(connections.acquire().infer.future(prompts_request("good"), timeout=30))
        connections.replace(grpc.insecure_channel(server.address))
    connections.close()
    codes = {call.exception(30).code() for call in calls}
    assert codes == {grpc.StatusCode.CANCELLED}
    assert not connections.replace(grpc.insecure_channel(server.address))


def test_many_threads_enter_and_leave_while_connections_are_replaced(server):
    connections, failures = Connections(grpc.insecure_channel(server.address)), []
    ends = threading.Event()

    def call():
        connection = connections.acquire()
        try:
            connection.infer(prompts_request("good"), timeout=30)
        except (grpc.RpcError, ValueError) as error:
            failures.append(error)
        finally:
            connections.release(connection)

    def replace():
        while not ends.wait(0.01):
            connections.replace(grpc.insecure_channel(server.address))

    replacing = threading.Thread(target=replace)
    replacing.start()
    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends.set()
    replacing.join()
    connections.close()
    assert failures == []
