"""The chapter *memorization*."""
