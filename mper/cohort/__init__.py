"""A cohort on disk: which scans of a folder of results are segmented, by which model, and the tables about them.

Several programs may work on one cohort, each with a log of its own, so that computers that share a folder need no lock.
Imports: the root's nouns, `utils`, `io`, `visualization`.
"""
