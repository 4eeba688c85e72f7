"""Traces of served requests: the records on disk and the arrays that analysis works on. Imports nothing heavy."""
