"""Tools that every stage uses: atomic files, locks, processes, devices, one-line errors, texts of messages.

Nothing here depends on medical images, models or datasets.
Imports: the standard library and numpy; `errors` (platformdirs), `devices` and `processes` (torch, psutil)
need more and stand on a higher floor.
"""
