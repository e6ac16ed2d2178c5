"""The chapter *phase*."""
