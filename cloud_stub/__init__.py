"""A server of the Open Inference Protocol for the large model of a cascade."""

import os

from edge_runtime import __version__ as __version__  # its import switches off what libraries report

# gRPC prints lines about handshakes that fail and headers that are malformed, past all logging: a
# flood of them would fill the disk, and they are no JSON. It reads this variable when it is
# imported; a value that is already set stays.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
