"""The book: chapters on the science of `spikiness`, run, verified and built into pages."""
