"""What tests and measuring scripts share: the scheduler without a model, real vLLM on tiny models, and their models.

Not for production: nothing that serves, simulates or measures for a user imports it.
"""
