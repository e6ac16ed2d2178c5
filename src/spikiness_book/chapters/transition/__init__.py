"""The chapter *transition*."""
