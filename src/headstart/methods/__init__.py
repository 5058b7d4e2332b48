"""One file per method; importing it registers it."""
