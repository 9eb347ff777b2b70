"""A small server of the Open Inference Protocol for the large model of a cascade."""

import os

# gRPC writes a line to standard error for every handshake that fails, past all logging: a flood of
# them would fill the disk. It looks at this when it is imported, and a value that is set stands.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
