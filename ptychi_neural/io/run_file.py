"""Earlier place of ``ptychi_neural.runs.run_file``, which scripts may go on using."""

from ptychi_neural.runs.run_file import RunFile, RunFileError, parse_changes, read_run_file

__all__ = ["RunFile", "RunFileError", "parse_changes", "read_run_file"]
