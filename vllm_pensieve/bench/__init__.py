"""Measuring vLLM with and without the plugin over HTTP. Imports nothing heavy."""
