"""Corrections by strokes: a prediction and the strokes of a person become a new mask, without training.

`refiner` holds the state of one case; what a stroke changes can be listed and taken back.
Imports: the root, `dataloading.preprocessing`, `nets`, `inference`.
"""
