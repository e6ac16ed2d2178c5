"""The chapter *audit*."""
