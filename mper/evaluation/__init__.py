"""How good a model is, and what to label next: metrics, evaluation over cases, comparison, active learning.

`metrics` needs numpy and scipy alone; the rest predicts.
Imports: the root, `utils`, `inference`.
"""
