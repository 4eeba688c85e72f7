"""Records traces: plays a workload's requests into a vLLM engine of this process, with a model or without."""
