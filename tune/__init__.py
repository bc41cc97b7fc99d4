"""Tune: the search for the best alignment run, its records in MLflow, and the champion of each track.

Knows `phasegpt` through `train.fit`, `evaluate`, `statistics` and the config; `phasegpt` knows nothing of this package.
"""
