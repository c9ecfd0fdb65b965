"""Benchmarks of methods: which runs to make, the runs, and tables and figures of their results.

A benchmark is a folder; the same command goes on where it stopped.
Imports: `training`, `evaluation`, `visualization` and what they stand on.
"""
