"""Conversations to send: generated ones and those of a dataset file. Imports nothing heavy."""
