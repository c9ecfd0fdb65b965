"""The engine: segmenting, datasets and training as an HTTP service; PROTOCOL.md beside this file is its contract."""
