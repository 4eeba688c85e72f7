"""Which cached block leaves first: every policy once, one file each, compiled, for the server and for simulations."""
