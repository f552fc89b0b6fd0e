"""The command line: read a record, check its fields, run the program that it belongs to."""

from deepzero_jax.programs.caches import cache_folder, use_compilation_cache
from deepzero_jax.programs.command_line import parse_command_line
from deepzero_jax.programs.program import Program, Programs, Run, prune, run_of, train
from deepzero_jax.programs.records import (
    RecordError,
    check_record,
    identity,
    load_record,
    override,
)
from deepzero_jax.programs.warnings import warnings_in

__all__ = [
    "Program",
    "Programs",
    "RecordError",
    "Run",
    "cache_folder",
    "check_record",
    "identity",
    "load_record",
    "override",
    "parse_command_line",
    "prune",
    "run_of",
    "train",
    "use_compilation_cache",
    "warnings_in",
]
