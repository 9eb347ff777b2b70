"""What a cascade does beside answering: watch the deferral ratio, keep to a deferral budget.

Each policy is a module of its own and is imported by its own name, so that a device loads only what
it uses: `edge_runtime.policies.drift`, `edge_runtime.policies.budget`. They need the standard
library alone.
"""
