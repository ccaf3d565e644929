"""The options of the bridge, on the command line and in its configuration file: one definition for each."""

from .definitions import DEFAULT_ENVIRONMENT, Isolation, Options, RecordedArguments
from .kinds import DescriptorName, RecordsTarget
from .reading import parse_options

__all__ = [
    "DEFAULT_ENVIRONMENT",
    "DescriptorName",
    "Isolation",
    "Options",
    "RecordedArguments",
    "RecordsTarget",
    "parse_options",
]
