"""How far the sweep is, by what DVC recorded and how long its stages took."""
