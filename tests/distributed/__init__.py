"""Tests of trainings in several processes."""
