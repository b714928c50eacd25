"""clinsynth: synthetic medical data sets, with evidence that they help and do not leak."""

__version__ = "0.1.0"
