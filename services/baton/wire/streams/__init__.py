"""Calls between gateways and workers, and among workers: framed messages on a connection each.

They mean what a gRPC stream of the same method would mean, and cost a tenth of one
(docs/decisions.md). `client.dial` opens a call, `server.StreamServer` answers calls, and both get
a `stream.Stream`.
"""
