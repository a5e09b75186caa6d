"""Input that nobody vouches for: refused before it is executed, before memory is given to it. See docs/security.md."""

from .caps import Refused, at_once, check_array
from .files import check_version, inside, parse_json, read_json, zip_names
from .zarrs import guarded, open_zarr, rows

__all__ = [
    "Refused",
    "at_once",
    "check_array",
    "check_version",
    "guarded",
    "inside",
    "open_zarr",
    "parse_json",
    "read_json",
    "rows",
    "zip_names",
]
