"""What requests and answers of the engine hold: pydantic models, which `/openapi.json` is made of.

One file a subject. Requests are strict and refuse what they do not know; answers are built by the services.
Imports: `utils`, the root's types and the registries of `methods` and `nets`, pydantic; no services, no routes.
"""
