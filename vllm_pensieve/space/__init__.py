"""Where every block is: the free queue, the plan that restores a prefix, the sessions. No torch, no engine."""
