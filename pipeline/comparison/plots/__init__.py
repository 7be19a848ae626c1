"""The pictures of the report, one row each in `table`: Vega-Lite charts, drawn with Altair."""
