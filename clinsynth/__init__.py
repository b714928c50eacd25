"""clinsynth: synthetic medical data sets, with evidence that they help and do not leak."""

from pkgutil import extend_path

# in the project's folder this package is found before the installed one, which has pipelines, trainers, metrics, …
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
