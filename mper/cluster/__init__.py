"""Jobs on a cluster: commands of `mper` that `submitit` gives to SLURM, or starts on this computer by the same code.

A job is a command that goes on where it stopped, so that a job that is preempted, timed out or killed is run again as
it is. `submitit` is an extra, ``mper[cluster]``, and is imported where jobs are submitted and in the jobs.
Imports: `utils`.
"""
