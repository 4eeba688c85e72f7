"""Every command line of the originals, literally."""
