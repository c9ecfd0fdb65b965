"""What the engine does, without HTTP: jobs, uploaded scans, predictions, corrections, models, datasets, plans.

`engine` holds one of each for the life of the process.
Imports: the stages below; no FastAPI, no routes.
"""
