"""Access to M_L: one server (`model`), or several or another cascade (`connect`).

`connection` opens connections, `failures` classifies their errors, `breaker` stops calls to a
server that is down. Importing this package alone loads nothing; `model` loads gRPC.
"""
