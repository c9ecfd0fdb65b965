"""The engine: an HTTP service that segments, corrects, keeps datasets and starts trainings for Slicer and others.

`routes` stand over `services`; `server` starts both, `auth` and `settings` guard them.
Imports: everything below it; never `cli`.
"""
