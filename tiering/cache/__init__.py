"""What was read from the store and is kept: chunks in memory and on disk, footers and pages, bodies that are still looked at."""
