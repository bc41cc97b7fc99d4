"""PhaseGPT: one fine-tuning run of a small causal language model on preference pairs.

A config goes in; metrics, answers and a checkpoint come out. Knows nothing of searches.
"""

__version__ = "1.4.0"
