"""Ask a gRPC server's standard health service, for a container's health check.

    python deploy/health.py 127.0.0.1:8001 [--certificate PEM] [--service NAME]

Ends with 0 where the server says that it serves, otherwise with 1 and the reason in one line. With
--certificate it speaks TLS and accepts the very certificate in that file, under whatever name it
was issued: the server asked is the one beside which this runs. Where clients must show a
certificate (--client-ca) this has none to show.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIMIT_S = 4.0


def name_in_certificate(host: str, port: int, certificate: Path) -> str:
    """Return a name under which the server's certificate was issued, having checked that it is it.

    Args:
        host: The server.
        port: Its port.
        certificate: PEM file of its certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The certificate is vouched for by being in the file, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), LIMIT_S) as connection,
        context.wrap_socket(connection) as secured,
    ):
        names = (secured.getpeercert() or {}).get("subjectAltName", ())
    return str(names[0][1]) if names else host


def connect(address: str, certificate: Path | None) -> grpc.Channel:
    """Open a channel, over TLS where a certificate is given."""
    if certificate is None:
        return grpc.insecure_channel(address)
    host, _, port = address.rpartition(":")
    name = name_in_certificate(host.strip("[]"), int(port), certificate)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


def main() -> int:
    """Ask once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--certificate", type=Path, help="PEM file of the server's certificate")
    parser.add_argument("--service", default="", help="e.g. a model's name; the server by default")
    asked = parser.parse_args()
    request = health_pb2.HealthCheckRequest(service=asked.service)
    try:
        with connect(asked.address, asked.certificate) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        print(f"{asked.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:  # not there, no TLS, another certificate, no address
        print(f"{asked.address}: {error}", file=sys.stderr)
        return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{asked.address}: {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
