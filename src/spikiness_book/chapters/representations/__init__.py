"""The chapter *representations*."""
