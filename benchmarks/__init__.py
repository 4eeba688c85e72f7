"""Measurements that are no part of the package: run from a checkout or the source archive."""
