"""A server of the Open Inference Protocol for the large model of a cascade."""

import os

# gRPC prints a line for every handshake that fails, past all logging: a flood of them would fill
# the disk. It reads this variable when it is imported; a value that is already set stays.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
