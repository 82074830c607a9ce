"""Files, row checks, frozen versions and splits."""
