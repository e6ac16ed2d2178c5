"""Runs, trained networks and batches: parameters in, verified result out; knows no chapter."""
