"""From scans to training patches: preprocessing on the working grid, sampling and augmentation.

Prediction uses the same preprocessing as training.
Imports: the root, `utils`, scipy, torch; it reads no file.
"""
