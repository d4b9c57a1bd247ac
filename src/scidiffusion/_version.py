"""The version of the package; the build reads it from here, so there is one place to change."""

__version__ = "0.1.0"
