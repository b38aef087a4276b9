"""The command line and the supervisor of both planes."""

__version__ = "0.1.0"
