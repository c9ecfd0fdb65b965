"""From a scan and a model to a prediction: localisation, sliding window, mask, explanation, plausibility.

`predictor` runs the whole way; the other modules are one step each.
Imports: the root, `utils`, `dataloading`, `nets`, `models`; `io` only where a reference scan has to be read.
"""
