"""Query a gRPC server's standard health service, for a container's health check.

    python deploy/health.py 127.0.0.1:8001 [--certificate PEM] [--service NAME]

Exits with 0 if the server is serving, otherwise with 1 and one line with the reason. With
--certificate it uses TLS and accepts exactly the certificate in that file, under any name: it is
meant for a server on the same machine. It cannot present a client certificate, so it does not work
with --client-ca.
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
    """Return a name in the server's certificate, which must be the expected one.

    Args:
        host: The server's address.
        port: Its port.
        certificate: PEM file of the expected certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The certificate in the file is trusted, whoever signed it.
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
    """Open a channel, with TLS if a certificate is given."""
    if certificate is None:
        return grpc.insecure_channel(address)
    host, _, port = address.rpartition(":")
    name = name_in_certificate(host.strip("[]"), int(port), certificate)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


def main() -> int:
    """Ask once; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--certificate", type=Path, help="PEM file of the server's certificate")
    parser.add_argument("--service", default="", help="name of a model; by default the server")
    flags = parser.parse_args()
    request = health_pb2.HealthCheckRequest(service=flags.service)
    try:
        with connect(flags.address, flags.certificate) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        print(f"{flags.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:  # no server, no TLS, another certificate, no address
        print(f"{flags.address}: {error}", file=sys.stderr)
        return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{flags.address}: {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
