"""What a person finds in MLflow: a run a variant and a baseline, under one run for the sweep.

The files that DVC keeps are the record; MLflow mirrors them. A run is tied to its files by their
checksums, held as tags, so no run id ever enters a DVC output, and whatever MLflow lacks is logged
again from the files by `report`.
"""
