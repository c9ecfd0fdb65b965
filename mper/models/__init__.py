"""Models as they are stored: the bundle of weights, its card, and the labelled voxels that explain it.

A bundle carries all that prediction needs and loads strictly; nothing is unpickled.
Imports: the root, `utils`, `nets`, `dataloading.preprocessing`, safetensors; `card` needs the standard library alone.
"""
