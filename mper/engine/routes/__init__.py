"""The engine's HTTP routes: each reads a request, calls a service and writes the answer.

One file a subject; no route holds state of its own.
Imports: `engine.services`, the stages below, FastAPI; never `cli`.
"""
