"""Serve a large model: `python -m cloud_stub --checkpoint DIR --port 8001`."""

import sys

from cloud_stub.deploy.settings import DeploySettings
from cloud_stub.settings import ServeSettings
from edge_runtime.cli import main

COMMANDS = {"serve": ServeSettings, "deploy": DeploySettings}

DEFAULT = ServeSettings

if __name__ == "__main__":
    sys.exit(main("python -m cloud_stub", COMMANDS, default=DEFAULT))
