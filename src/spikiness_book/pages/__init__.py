"""The book: chapters run and staged with their numbers, pages built with warnings as errors, and scanned."""

from spikiness_book.pages.make import build, publish, site

__all__ = ["build", "publish", "site"]
