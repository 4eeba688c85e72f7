"""All that is known of vLLM's versions and internals, and all that is changed in them; nothing else patches vLLM."""
