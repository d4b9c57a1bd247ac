"""Errors and warnings of scidiffusion.

Every error the library raises on purpose derives from `ScidiffusionError` and, beside it,
from the built-in class a caller would reach for anyway: a bad argument is a `ValueError`, a bad
file an `OSError`, a missing package an `ImportError`. A message names the thing that is wrong
(the column, the option, the file) and the way out.
"""

from __future__ import annotations

__all__ = [
    "ConditionError",
    "ConfigError",
    "DataError",
    "InputError",
    "MissingExtraError",
    "ModelFileError",
    "OutputError",
    "SchemaError",
    "ScidiffusionError",
    "ScidiffusionWarning",
    "TrainingError",
]


class ScidiffusionError(Exception):
    """Base class of every error raised on purpose by this library."""


class InputError(ScidiffusionError, ValueError):
    """An argument is unusable; nothing has been computed yet."""


class DataError(InputError):
    """A table or an array cannot be used; the message names the column or the row."""


class SchemaError(InputError):
    """A schema is inconsistent in itself, or does not fit the table it is meant for."""


class ConditionError(InputError):
    """A condition names an unknown column or label, or a value the model has never seen."""


class ConfigError(InputError):
    """An option has an impossible value, or two options contradict each other."""


class ModelFileError(ScidiffusionError, OSError):
    """A saved model is missing, truncated, of a newer format, or of another estimator."""


class OutputError(ScidiffusionError, OSError):
    """An output path cannot be written."""


class TrainingError(ScidiffusionError, RuntimeError):
    """Training cannot go on, such as when the loss is no longer finite."""


class MissingExtraError(ScidiffusionError, ImportError):
    """An optional package is not installed; the message is the `pip install` that helps."""


class ScidiffusionWarning(UserWarning):
    """Something works but is probably not what was meant, such as a noising that stops early."""
