"""One verb of the `robot-value` command per file: a frozen dataclass of flags and a `run` that calls the library."""
