"""The pictures of the report, one row each in `table`, drawn with matplotlib."""
