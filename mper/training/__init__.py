"""Training runs: planning, the loop, checkpoints, validation on the hold-out, and publishing the model.

A run is a folder; it is steered and followed through its files, whoever started it.
Imports: all stages below: `datasets`, `dataloading`, `nets`, `methods`, `models`, `inference`, `evaluation`.
"""
