"""Small tools that every stage uses: files that appear whole or not at all, locks, processes, devices, one-line errors.

Nothing here knows medical images, models or datasets.
Imports: the standard library and numpy; `errors` (platformdirs), `devices` and `processes` (torch, psutil)
need more and stand on a higher floor.
"""
