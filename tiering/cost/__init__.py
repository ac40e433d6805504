"""Price book, meter and formulas: what a log costs."""
