"""What stops a deployment; nothing is written then.

GatekeeperError
└── DeployError (ValueError)   model, names and folder do not fit the engine or one another
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class DeployError(GatekeeperError, ValueError):
    """The model cannot be served as asked, or the output folder is in use."""
