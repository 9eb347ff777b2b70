"""The way to M_L: one server (`model`), several (`failover`), or another cascade (`tier`).

`channel` opens connections, `failures` tells apart what can go wrong on them, `breaker` keeps
calls off a server that is gone. This package itself loads nothing; gRPC comes with `model`.
"""
