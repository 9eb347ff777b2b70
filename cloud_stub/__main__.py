"""Serve a large model: `python -m cloud_stub --checkpoint DIR --port 8001`."""

import sys

from cloud_stub.deploy.settings import DeploySettings
from cloud_stub.settings import ServeSettings
from edge_runtime import cli

if __name__ == "__main__":
    commands = {"serve": ServeSettings, "deploy": DeploySettings}
    sys.exit(cli.main("python -m cloud_stub", commands, default=ServeSettings))
