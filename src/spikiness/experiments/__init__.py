"""What the chapters measure: one module per chapter, seeds in and tidy tables out, tested apart from any notebook."""
